//! Rings in shared memory: in one process on every runtime, and between a master and its workers.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use release_core::ipc::{ConnectOptions, Descriptor, Ended, Peer, Postcard, Request};
use release_core::rt::{Driver, Rt, Task, local::Local, run};
use release_tests::{
    Installed, Process, Running, control, eventually, load, on_every_backend, run_on, zombies,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Carry {
    number: u32,
    filling: String,
    descriptor: Option<Descriptor>,
}

impl Request for Carry {
    type Response = (u32, String);
}

impl Carry {
    /// Every seventh is larger than the ring, and every eleventh carries a descriptor.
    fn new(number: u32) -> Self {
        let length =
            if number.is_multiple_of(7) { 20_000 } else { usize::try_from(number % 100).unwrap() };
        let null = || Descriptor::new(fs::File::open("/dev/null").unwrap());
        let descriptor = number.is_multiple_of(11).then(null);
        Self { number, filling: "x".repeat(length), descriptor }
    }
}

/// One end of a connection, and the numbers that came to it, in order.
struct End {
    peer: Peer<Carry>,
    seen: Arc<Mutex<Vec<u32>>>,
    serving: Task<Ended>,
}

fn end(rt: &Rt, socket: UnixStream, options: ConnectOptions) -> End {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let answer = move |carry: Carry| {
        noted.lock().unwrap().push(carry.number);
        async move {
            if let Some(descriptor) = carry.descriptor {
                drop(OwnedFd::from(descriptor));
            }
            Ok((carry.number, carry.filling))
        }
    };
    let connected = options.connect::<Carry, Carry, _, _, _>(rt, socket.into(), Postcard, answer);
    let (peer, serving) = connected.expect("a connection");
    End { peer, seen, serving }
}

/// Both sides ask much at once, with messages that go different ways.
async fn ask_both_ways(rt: Rt, options: ConnectOptions) {
    const COUNT: u32 = 600;
    let (here, there) = UnixStream::pair().unwrap();
    let options = options.descriptors(8).ring(4096);
    let (one, other) = (end(&rt, here, options), end(&rt, there, options));
    let calls = |peer: Peer<Carry>| async move {
        for first in (0..COUNT).step_by(20) {
            let calls = (first..first + 20).map(|number| {
                let peer = peer.clone();
                async move {
                    let carry = Carry::new(number);
                    let answer = peer.call(&carry).await.expect("an answer");
                    assert_eq!(answer, (number, carry.filling));
                }
            });
            join_all(calls).await;
        }
    };
    let asking = [rt.spawn(calls(one.peer.clone())), rt.spawn(calls(other.peer.clone()))];
    join_all(asking).await;
    for end in [&one, &other] {
        let mut seen = end.seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..COUNT), "each once");
    }
    // One after the other, with sleep between.
    for number in 1..200 {
        let answer = one.peer.call(&Carry::new(number)).await.expect("an answer");
        assert_eq!(answer.0, number);
    }
    drop((one.peer, one.serving));
    let ended = other.serving.await;
    assert!(matches!(ended, Ended::Closed), "{ended:?}");
}

#[test]
fn local() {
    let driver = Local::new().unwrap();
    run(&driver, ask_both_ways(driver.handle(), ConnectOptions::new()));
    let spinning = ConnectOptions::new().spin(Duration::from_micros(50));
    run(&driver, ask_both_ways(driver.handle(), spinning));
}

/// How many rings a process has mapped: its own, and those of its peers.
fn rings(process: Process) -> usize {
    let maps = fs::read_to_string(process.path("maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains("memfd:release-ring")).count()
}

fn have_rings(service: &Running, workers: usize) {
    eventually("all have both rings", || {
        let all = service.workers();
        all.len() == workers
            && all.into_iter().all(|worker| rings(worker) == 2)
            && rings(service.process()) == 2 * workers
    });
}

on_every_backend! {
    fn messages_of_all_kinds_come_once(backend: Backend) {
        run_on(backend, |rt| ask_both_ways(rt, ConnectOptions::new()));
        let spinning = ConnectOptions::new().spin(Duration::from_micros(50));
        run_on(backend, |rt| ask_both_ways(rt, spinning));
    }

    fn a_killed_process_is_noticed_and_its_rings_are_freed(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--ring=4"]);
        have_rings(&service, 2);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            for _ in 0..5 {
                let before = service.workers();
                before[0].signal(Signal::SIGKILL);
                eventually("another one has started", || {
                    let now = service.workers();
                    now.len() == 2 && !now.contains(&before[0])
                });
            }
            over.store(true, Ordering::Relaxed);
            let (answers, _) = load.join().expect("the load");
            let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
            assert_eq!(numbers.len(), answers.len(), "every number once");
        });
        have_rings(&service, 2);
        eventually("they are reaped", || zombies(service.pid()).is_empty());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn reloads_and_upgrades_under_load_lose_nothing(backend: Backend) {
        let installed = Installed::new(backend, "service");
        let (mut service, address) = installed.program().args(["--ring=4"]).serve(2);
        have_rings(&service, 2);
        let over = AtomicBool::new(false);
        let (answers, failures) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            for round in 0..4 {
                let command = if round % 2 == 0 { "reload" } else { "upgrade" };
                installed.install(&backend.program("service"));
                assert_eq!(control(&service.control(), command), "ok", "{}", service.stderr());
            }
            over.store(true, Ordering::Relaxed);
            load.join().expect("the load")
        });
        assert!(failures.is_empty(), "{failures:?} of {}; {}", answers.len(), service.stderr());
        let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
        assert_eq!(numbers.len(), answers.len(), "every number once");
        // Of the old workers none is left, nor is its memory.
        have_rings(&service, 2);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}
