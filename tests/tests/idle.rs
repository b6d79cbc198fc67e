//! A service without requests costs nothing: neither its master nor its workers wake up.

use std::thread;
use std::time::Duration;

use release_core::testing::{Program, Running};
use release_tests::{Process, eventually, on_all_backends_at_once};

/// What a service does once a minute or more often is seen. The heartbeats of the service are 75 s apart:
/// of three intervals, one has no heartbeat.
const QUIET: Duration = Duration::from_secs(30);
const INTERVALS: usize = 3;

/// How often the threads of the service have waited for something so far.
fn waits(service: &Running) -> u64 {
    let processes = service.processes().into_iter().map(Process);
    let threads = processes.flat_map(Process::threads);
    let counts = threads.flat_map(|thread| thread.numbers("voluntary_ctxt_switches"));
    counts.map(u64::from).sum()
}

on_all_backends_at_once! {
    fn an_idle_service_does_not_wake_up(backend: Backend) {
        let mut service = Program::new(backend.program("service"))
            .args(["--listen", "127.0.0.1:0", "--control", "control", "--stop-deadline", "60"])
            .control("control")
            .start()
            .expect("it starts");
        // The end of the start.
        let mut before = waits(&service);
        eventually("the service comes to rest", || {
            thread::sleep(Duration::from_millis(200));
            std::mem::replace(&mut before, waits(&service)) == before
        });
        let mut seen = Vec::new();
        while seen.last() != Some(&0) && seen.len() < INTERVALS {
            let before = waits(&service);
            thread::sleep(QUIET);
            seen.push(waits(&service) - before);
        }
        assert_eq!(seen.last(), Some(&0), "wake-ups in intervals of {QUIET:?}: {seen:?}");
        service.stop().expect("it stops");
    }
}
