//! A master that was stopped for a while, by a debugger or a shell: what its workers did meanwhile
//! counts before what it missed itself.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{Process, Program, eventually, is_alive, on_every_backend};

on_every_backend! {
    fn workers_that_became_ready_meanwhile_were_in_time(backend: Backend) {
        let mut probe = Program::probe(backend, "starts-slowly")
            .args(["--ready-timeout", "3000", "--workers", "8"])
            .start();
        eventually("they begin", || probe.stderr().matches("begins").count() == 8);
        probe.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(3500));
        probe.signal(Signal::SIGCONT);
        probe.await_ready(8);
        assert!(!probe.stderr().contains("killed"), "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn workers_that_ended_meanwhile_were_in_time(backend: Backend) {
        let mut probe = Program::probe(backend, "works")
            .args(["--stop-deadline", "1500", "--workers", "8"])
            .start();
        probe.await_ready(8);
        let workers = probe.workers();
        // They hear of it when their master does not run any more.
        workers.iter().for_each(|worker| worker.signal(Signal::SIGSTOP));
        let stands = |thread: Process| thread.status("State").is_some_and(|it| it.starts_with('T'));
        let stand = |worker: &Process| worker.threads().into_iter().all(stands);
        eventually("they stand still", || workers.iter().all(stand));
        probe.signal(Signal::SIGTERM);
        let is_told = |worker: &Process| worker.status("ShdPnd") != Some("0".repeat(16));
        eventually("they are told to stop", || workers.iter().all(is_told));
        probe.signal(Signal::SIGSTOP);
        workers.iter().for_each(|worker| worker.signal(Signal::SIGCONT));
        eventually("they end", || workers.iter().all(|worker| !is_alive(worker.0)));
        thread::sleep(Duration::from_millis(1600));
        probe.signal(Signal::SIGCONT);
        assert_eq!(probe.wait().code(), Some(0), "{}", probe.stderr());
    }

    fn a_master_says_for_how_long_it_had_no_turn(backend: Backend) {
        // With these it looks at its workers every second.
        for options in [["--max-requests", "1000000"], ["--heartbeat", "4000"]] {
            let mut probe = Program::probe(backend, "serve").args(options).start();
            probe.await_ready(1);
            probe.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(2500));
            probe.signal(Signal::SIGCONT);
            eventually("it says so", || probe.stderr().contains("or held up: it had no turn"));
            assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        }
    }
}
