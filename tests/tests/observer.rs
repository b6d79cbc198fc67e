//! What the program hears of its master and says to it.

use nix::sys::signal::Signal;
use release_tests::{Program, control, eventually, on_every_backend};

on_every_backend! {
    fn an_observer_sees_everything_in_order(backend: Backend) {
        let signals = [
            (Signal::SIGTERM, "Terminate"),
            (Signal::SIGINT, "Interrupt"),
            (Signal::SIGQUIT, "Quit"),
        ];
        for (signal, cause) in signals {
            let mut probe = Program::probe(backend, "serve").args(["--observer", "log"]).start();
            probe.await_ready(1);
            assert_eq!(control(&probe.control(), "reload"), "ok");
            eventually("the old one has ended", || probe.stderr().contains("observed Died"));
            probe.signal(signal);
            probe.wait();
            let log = probe.stderr();
            let observed = log.lines().filter_map(|line| {
                line.split_once("observed ")?.1.split_whitespace().next()
            });
            let mut observed: Vec<_> = observed.collect();
            // A stop at once kills.
            observed.retain(|report| *report != "Killed");
            let expected = [
                "Starting", "Started", "Ready", "AllReady", "Reloading", "Started", "Ready",
                "Reloaded", "Died", "Stopping", "Died", "Finished",
            ];
            assert_eq!(observed, expected, "{log}");
            assert!(log.contains(&format!("observed Stopping {{ cause: {cause} }}")), "{log}");
        }
    }

    fn an_observer_that_panics_is_survived(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--observer", "panic"]).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        let log = probe.stderr();
        assert!(log.contains("the observer panicked panic=\"in the observer\""), "{log}");
    }

    fn a_reload_hook_that_hangs_holds_nobody_up(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--reload-timeout", "300"]).start();
        probe.await_ready(1);
        probe.configure("hangs");
        let answer = control(&probe.control(), "reload");
        assert_eq!(answer, "its preparation was not done within 300ms");
        probe.configure("second");
        assert_eq!(control(&probe.control(), "reload"), "ok");
        assert!(probe.stderr().contains("configuration=\"second\" generation=2"));
        // Each occupies a thread.
        probe.configure("hangs");
        for _ in 1..3 {
            assert_eq!(control(&probe.control(), "reload"), answer);
        }
        let refused = control(&probe.control(), "reload");
        assert!(refused.starts_with("3 earlier preparations still hang"), "{refused}");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }
}
