//! Many requests at once, and workers that die meanwhile.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Answer, HttpClient, Running, is_root, on_every_backend, try_http_get, zombies,
};

const CLIENTS: usize = 8;
const REQUESTS: usize = 10_000;

/// Half of the clients keep their connection, half take a new one for each request.
fn client(number: usize, address: SocketAddr) -> impl FnMut() -> io::Result<Answer> {
    let mut kept = None;
    move || {
        if number.is_multiple_of(2) {
            return try_http_get(address);
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => HttpClient::connect(address)?,
        };
        let answer = connection.get()?;
        kept = Some(connection);
        Ok(answer)
    }
}

/// Runs the clients until each has made its requests; what they were answered, and how many failed.
fn load(address: SocketAddr, more: impl Fn(usize) -> bool + Sync) -> (Vec<Answer>, usize) {
    let run = |number| {
        let mut ask = client(number, address);
        let results: Vec<_> = (0..).take_while(|made| more(*made)).map(|_| ask()).collect();
        let made = results.len();
        let answers: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
        let failed = made - answers.len();
        (answers, failed)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || run(number))).collect();
        let results = clients.into_iter().map(|client| client.join().expect("a client"));
        results.fold((Vec::new(), 0), |(mut all, failures), (answers, failed)| {
            all.extend(answers);
            (all, failures + failed)
        })
    })
}

fn assert_unique(answers: &[Answer]) {
    let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
    assert_eq!(numbers.len(), answers.len(), "a number was given twice");
}

on_every_backend! {
    fn ten_thousand_requests_are_all_answered(backend: Backend) {
        let (mut service, address) = Running::service(backend, 4, &[]);
        let (answers, failed) = load(address, |made| made < REQUESTS / CLIENTS);
        assert_eq!((answers.len(), failed), (REQUESTS, 0));
        assert_unique(&answers);
        // Nothing was lost on the way either: every number from the first on was received.
        let highest = answers.iter().map(|answer| answer.seq).max();
        assert_eq!(highest, Some(u64::try_from(REQUESTS).expect("a number") - 1));
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
        assert!(failed <= killed * CLIENTS, "{failed} failed of {}, {killed} kills", answers.len());
        assert!(killed > 0 && answers.len() > 100, "{killed} kills, {} answers", answers.len());
        service.await_ready(4);
        assert!(zombies(service.pid()).is_empty());
        let (answers, failed) = load(address, |made| made < 25);
        assert_eq!((answers.len(), failed), (25 * CLIENTS, 0));
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
        assert_eq!((answers.len(), failed), (25 * CLIENTS, 0));
        for answer in answers {
            assert_eq!(release_tests::Process(answer.pid).numbers("Uid"), [65534; 4]);
        }
        assert_eq!(service.stop(), 0);
    }
}
