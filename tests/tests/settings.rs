//! Settings: each generation of workers has its own value, and each worker that of its generation.

use std::thread;

use nix::sys::signal::Signal;
use release_tests::{Installed, Process, Program, Running, control, eventually, on_every_backend};

fn ask(probe: &Running, request: &str) -> String {
    control(&probe.control(), request)
}

/// How often a worker has begun with this value in this generation.
fn begun(probe: &Running, worker: u32, value: &str, generation: u32) -> usize {
    let line = format!("worker={worker} configuration=\"{value}\" generation={generation}");
    probe.stderr().matches(&line).count()
}

/// Waits until a worker has begun so often: its lines come another way than the answer of its master.
fn has_begun(probe: &Running, worker: u32, value: &str, generation: u32, times: usize) {
    eventually(&format!("worker {worker} begins with {value:?} in {generation}"), || {
        begun(probe, worker, value, generation) == times
    });
}

/// Kills a worker, which begins once more with this value in this generation.
fn is_as_it_was(probe: &Running, process: Process, worker: u32, value: &str, generation: u32) {
    let before = begun(probe, worker, value, generation);
    process.signal(Signal::SIGKILL);
    eventually(&format!("worker {worker} has {value:?} of {generation}"), || {
        begun(probe, worker, value, generation) == before + 1
    });
}

on_every_backend! {
    fn a_worker_gets_the_value_of_its_own_generation(backend: Backend) {
        let options = ["--workers", "2", "--canary", "60000"];
        let mut probe = Program::probe(backend, "serve").args(options).start();
        probe.await_ready(2);
        eventually("both have begun", || (0..2).all(|id| begun(&probe, id, "first", 1) == 1));
        let old = probe.workers();
        probe.configure("second");
        thread::scope(|scope| {
            let reload = scope.spawn(|| ask(&probe, "reload"));
            eventually("the next generation is tried", || begun(&probe, 0, "second", 2) == 1);
            let canary = probe.workers().into_iter().find(|process| !old.contains(process));
            old.iter().for_each(|process| process.signal(Signal::SIGKILL));
            eventually("it is there again", || begun(&probe, 1, "first", 1) == 2);
            canary.expect("a canary").signal(Signal::SIGKILL);
            let answer = reload.join().expect("an answer");
            assert!(answer.contains("SIGKILL"), "{answer}");
        });
        probe.await_ready(2);
        assert_eq!(begun(&probe, 1, "second", 2), 0);
        // One that is new, too, and it stays so.
        assert_eq!(ask(&probe, "scale 3"), "ok");
        has_begun(&probe, 2, "first", 1, 1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_size_holds_when_its_generation_serves(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--workers", "2"]).start();
        probe.await_ready(2);
        for (value, size) in [("4 of them", 4), ("1 of them", 1), ("3 of them", 3)] {
            probe.configure(value);
            assert_eq!(ask(&probe, "reload"), "ok");
            assert_eq!(ask(&probe, "status").matches("ready").count(), size, "{value}");
        }
        // Of the file and an operator the one that changed it last holds.
        assert_eq!(ask(&probe, "scale 2"), "ok");
        assert_eq!(ask(&probe, "reload"), "ok");
        assert_eq!(ask(&probe, "status").matches("ready").count(), 2);
        // A generation that fails leaves the number as it was, and the next one has it.
        probe.configure("1 of those");
        probe.tell("fail");
        assert!(ask(&probe, "reload").contains("before it was ready"));
        assert_eq!(ask(&probe, "status").matches("ready").count(), 2);
        probe.tell("serve");
        assert_eq!(ask(&probe, "reload"), "ok");
        assert_eq!(ask(&probe, "status").matches("ready").count(), 1);
        probe.configure("20000 of them");
        assert_eq!(ask(&probe, "reload"), "more than 10000 workers are too many");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_value_that_cannot_be_made_changes_nothing(backend: Backend) {
        let options = ["--workers", "1", "--reload-timeout", "3000"];
        let mut probe = Program::probe(backend, "serve").args(options).start();
        probe.await_ready(1);
        let old = probe.workers();
        for (value, reason) in [
            ("panics", "its preparation failed: `settings` panicked: on purpose"),
            ("hangs", "its preparation was not done within 3s"),
        ] {
            probe.configure(value);
            assert_eq!(ask(&probe, "reload"), reason);
            assert_eq!(probe.workers(), old);
        }
        is_as_it_was(&probe, old[0], 0, "first", 1);
        probe.await_ready(1);
        assert_eq!(ask(&probe, "scale 2"), "ok");
        has_begun(&probe, 1, "first", 1, 1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn workers_of_two_versions_have_their_own_values(backend: Backend) {
        let installed = Installed::new(backend, "probe");
        let options = ["--workers", "1", "--canary", "100"];
        let mut probe = installed.program().as_master("serve").args(options).start();
        probe.await_ready(1);
        let old = probe.workers()[0];
        probe.configure("second");
        probe.tell("fail");
        installed.install(&backend.program("probe"));
        assert!(ask(&probe, "upgrade").contains("before it was ready"));
        probe.tell("serve");
        is_as_it_was(&probe, old, 0, "first", 1);
        probe.await_ready(1);
        installed.install(&backend.program("probe"));
        assert_eq!(ask(&probe, "upgrade"), "ok");
        eventually("it has the next value", || begun(&probe, 0, "second", 3) >= 1);
        eventually("the old one has gone", || probe.workers().len() == 1);
        is_as_it_was(&probe, probe.workers()[0], 0, "second", 3);
        probe.await_ready(1);
        probe.configure("third");
        assert_eq!(ask(&probe, "reload"), "ok");
        has_begun(&probe, 0, "third", 4, 1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }
}
