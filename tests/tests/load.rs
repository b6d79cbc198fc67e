//! Many requests at once, and workers that die meanwhile.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Answer, CLIENTS, Running, eventually, is_root, load, on_every_backend, zombies,
};

const REQUESTS: usize = 10_000;

fn assert_unique(answers: &[Answer]) {
    let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
    assert_eq!(numbers.len(), answers.len(), "a number was given twice");
}

on_every_backend! {
    fn ten_thousand_requests_are_all_answered(backend: Backend) {
        let (mut service, address) = Running::service(backend, 4, &[]);
        let (answers, failed) = load(address, |made| made < REQUESTS / CLIENTS);
        assert!(answers.len() >= REQUESTS && failed.is_empty(), "{}: {failed:?}", answers.len());
        assert_unique(&answers);
        // Nothing was lost on the way either: every number from the first on was received.
        let highest = answers.iter().map(|answer| answer.seq).max();
        assert_eq!(highest, Some(u64::try_from(answers.len()).expect("a number") - 1));
        assert_eq!(service.stop(), 0);
    }

    fn a_killed_worker_loses_what_is_in_its_hands(backend: Backend) {
        let (mut service, address) = Running::service(backend, 4, &[]);
        let over = AtomicBool::new(false);
        let kill = || {
            let mut killed = 0;
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(2) {
                if let Some(worker) = service.workers().first() {
                    worker.signal(Signal::SIGKILL);
                    killed += 1;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            over.store(true, Ordering::Relaxed);
            killed
        };
        let (killed, (answers, failed)) = std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            (kill(), load.join().expect("the load"))
        });
        assert_unique(&answers);
        let (failed, made) = (failed.len(), answers.len());
        assert!(failed <= killed * CLIENTS, "{failed} failed of {made}, {killed} kills");
        assert!(killed > 0 && answers.len() > 100, "{killed} kills, {} answers", answers.len());
        service.await_ready(4);
        eventually("all are reaped", || zombies(service.pid()).is_empty());
        let (answers, failed) = load(address, |made| made < 25);
        assert!(answers.len() >= 25 * CLIENTS && failed.is_empty(), "{failed:?}");
        assert_eq!(service.stop(), 0);
    }

    fn a_privileged_port_is_served_by_unprivileged_workers(backend: Backend) {
        if !is_root("a port below 1024") {
            return;
        }
        // One for each backend, and apart from those of `free_port`.
        let [_, _, third, fourth] = std::process::id().to_be_bytes();
        let address = SocketAddr::from(([127, 200 + backend as u8, third, fourth], 80));
        let mut service = release_tests::Program::new(backend, "service").listen(address, 4).start();
        service.await_ready(4);
        let (answers, failed) = load(address, |made| made < 25);
        assert!(answers.len() >= 25 * CLIENTS && failed.is_empty(), "{failed:?}");
        for answer in answers {
            assert_eq!(release_tests::Process(answer.pid).numbers("Uid"), [65534; 4]);
        }
        assert_eq!(service.stop(), 0);
    }
}
