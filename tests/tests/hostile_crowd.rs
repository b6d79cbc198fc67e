//! Too many, too fast, too greedy: floods on the control socket take nothing from others (gate G1).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release_tests::{
    AT_ONCE, ControlClient, Noise, Process, Target, eventually, frames, on_every_backend,
    try_control,
};

/// How many connections `ControlSocket` promises to keep.
const CONNECTIONS: usize = 64;

on_every_backend! {
    fn idle_connections_give_way(backend: Backend) {
        let target = Target::start(backend);
        let mut old = target.connect();
        assert_eq!(old.ask("ping").unwrap(), "pong");
        let mut crowd = Vec::new();
        for number in 0..500 {
            crowd.push(target.connect());
            if number % 50 == 0 {
                target.is_serving();
            }
        }
        target.is_serving();
        // Whoever has asked something before stays longer than those that never did.
        assert_eq!(old.ask("ping").unwrap(), "pong");
        let held = target.service.process().descriptors().len();
        assert!(held < 40 + CONNECTIONS, "{held} descriptors");
        assert_eq!(crowd[0].read_to_end(AT_ONCE), Some(vec![]));
        drop((crowd, old));
        target.is_unharmed();
    }

    fn a_storm_of_connections_does_not_delay_others(backend: Backend) {
        let target = Target::start(backend);
        let (over, control) = (AtomicBool::new(false), target.service.control());
        std::thread::scope(|scope| {
            let _over = Over(&over);
            scope.spawn(|| while !over.load(Ordering::Relaxed) {
                let _ = UnixStream::connect(&control);
            });
            serve_for(&target, Duration::from_secs(2));
        });
        target.is_unharmed();
    }

    fn peers_that_never_read_are_not_answered_for_ever(backend: Backend) {
        let target = Target::start(backend);
        let mut peers: Vec<_> = (0..6).map(|_| Greedy::new(&target)).collect();
        for round in 0..20 {
            peers.iter_mut().for_each(Greedy::ask);
            if round % 5 == 0 {
                target.is_serving();
            }
        }
        assert!(peers.iter().all(|peer| peer.sent > 100_000));
        target.before.is_bounded();
        drop(peers);
        target.is_unharmed();
    }

    fn a_peer_that_asks_without_end_is_served_in_turn(backend: Backend) {
        let target = Target::start(backend);
        let (answers, peer) = (AtomicU32::new(0), target.connect());
        let requests = frames(vec!["ping"; 8192]);
        std::thread::scope(|scope| {
            let _over = Hangup(&peer);
            scope.spawn(|| while (&peer.0).write_all(&requests).is_ok() {});
            scope.spawn(|| {
                while (&peer.0).read(&mut [0; 65536]).is_ok_and(|count| count > 0) {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
            serve_for(&target, Duration::from_secs(2));
        });
        assert!(answers.load(Ordering::Relaxed) > 100);
        drop(peer);
        target.is_unharmed();
    }

    fn peers_that_go_with_answers_pending_are_forgotten(backend: Backend) {
        let target = Target::start(backend);
        let requests = frames(vec!["status"; 50]);
        for _ in 0..200 {
            target.connect().throw(&requests);
        }
        target.is_unharmed();
    }

    fn a_shortage_of_descriptors_is_waited_out(backend: Backend) {
        let target = Target::start(backend);
        let master = target.service.process();
        let mut known = target.connect();
        assert_eq!(known.ask("ping").unwrap(), "pong");
        let full = master.descriptors().iter().map(|(number, _)| number + 1).max().unwrap();
        limit_descriptors(master, &full.to_string());
        // The free numbers below the limit are taken first.
        let crowd: Vec<_> = (0..100).map(|_| target.connect()).collect();
        let (began, ticks) = (Instant::now(), master.ticks());
        while began.elapsed() < Duration::from_secs(1) {
            assert_eq!(known.ask("ping").unwrap(), "pong");
            std::thread::sleep(Duration::from_millis(20));
        }
        let busy = master.ticks() - ticks;
        assert!(busy < 50, "{busy} % of a processor");
        limit_descriptors(master, "20000");
        eventually("connections are accepted again", || {
            try_control(&target.service.control(), "ping").is_ok()
        });
        drop((crowd, known));
        target.is_unharmed();
    }

    fn a_worker_that_dies_in_a_shortage_comes_back(backend: Backend) {
        let target = Target::start(backend);
        let master = target.service.process();
        let worker = target.service.workers()[0];
        let mut known = target.connect();
        assert_eq!(known.ask("ping").unwrap(), "pong");
        limit_descriptors(master, "4");
        kill(Pid::from_raw(worker.0), Signal::SIGKILL).unwrap();
        eventually("a start has failed", || target.service.stderr().contains("cannot be started"));
        assert_eq!(known.ask("ping").unwrap(), "pong");
        limit_descriptors(master, "20000");
        target.service.await_ready(1);
        target.service.await_http(target.address);
    }

    fn hostile_rounds_leave_nothing_behind(backend: Backend) {
        let target = Target::start(backend);
        let mut noise = Noise::new(7);
        let mut after = Vec::new();
        for _ in 0..4 {
            for _ in 0..300 {
                attack_at_random(&target, &mut noise);
            }
            target.is_unharmed();
            after.push(target.service.process().resident_kib());
        }
        let slope = after[3].saturating_sub(after[0]);
        assert!(slope <= 512, "{after:?} KiB");
    }
}

/// Ends an attack, also when the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The same for an attack over one connection.
struct Hangup<'a>(&'a ControlClient);

impl Drop for Hangup<'_> {
    fn drop(&mut self) {
        let _ = self.0.0.shutdown(Shutdown::Both);
    }
}

/// A peer that asks as much as its socket takes, and reads no answer.
struct Greedy {
    peer: ControlClient,
    requests: Vec<u8>,
    sent: usize,
}

impl Greedy {
    fn new(target: &Target) -> Self {
        let peer = target.connect();
        peer.0.set_nonblocking(true).unwrap();
        let requests = frames(vec!["status"; 100_000]);
        Self { peer, requests, sent: 0 }
    }

    fn ask(&mut self) {
        if let Ok(count) = self.peer.0.write(&self.requests[self.sent..]) {
            self.sent += count;
        }
    }
}

/// Others are answered at once for as long as this.
fn serve_for(target: &Target, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        target.is_serving();
    }
}

fn attack_at_random(target: &Target, noise: &mut Noise) {
    let mut peer = target.connect();
    match noise.below(6) {
        0 => peer.throw(&u32::MAX.to_be_bytes()),
        1 => peer.throw(&noise.bytes(300)),
        2 => peer.throw(&frames(vec!["status"; 30])),
        3 => peer.throw(b"\0\0\0\x08half"),
        4 => peer.throw(&frames([noise.bytes(5000)])),
        _ => assert_eq!(peer.ask("ping").unwrap(), "pong"),
    }
}

fn limit_descriptors(process: Process, most: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.0.to_string()])
        .arg(format!("--nofile={most}:"))
        .status();
    assert!(status.expect("prlimit").success());
}
