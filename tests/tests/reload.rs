//! Reloads, restarts and changes of size, of real processes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{
    HttpClient, Program, Running, control, eventually, http_get, load, on_every_backend, zombies,
};
use serde_json::Value;

fn status(service: &Running) -> Value {
    serde_json::from_str(&control(&service.control(), "status")).expect("JSON")
}

/// The pids of the workers, by their identities.
fn pids(service: &Running) -> Vec<i64> {
    let status = status(service);
    let workers = status["workers"].as_array().expect("workers").iter();
    workers.map(|worker| worker["pid"].as_i64().expect("a pid")).collect()
}

/// The generation that serves, when all workers are of it and ready.
fn generation(service: &Running) -> Option<u64> {
    let status = status(service);
    let workers = status["workers"].as_array().expect("workers");
    let is_present =
        |worker: &Value| worker["generation"] == status["generation"] && worker["state"] == "ready";
    workers.iter().all(is_present).then(|| status["generation"].as_u64().expect("a number"))
}

fn reload(running: &Running) -> String {
    control(&running.control(), "reload")
}

on_every_backend! {
    fn twenty_reloads_under_load_lose_nothing(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &[]);
        let before = pids(&service);
        let over = AtomicBool::new(false);
        let (answers, failures) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            let outcomes: Vec<_> = (0..20).map(|_| reload(&service)).collect();
            over.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(|outcome| outcome == "ok"), "{outcomes:?}");
            load.join().expect("the load")
        });
        assert!(failures.is_empty(), "{failures:?} of {}", answers.len());
        assert_eq!(generation(&service), Some(21));
        assert!(pids(&service).iter().all(|pid| !before.contains(pid)));
        let processes: HashSet<_> = answers.iter().map(|answer| answer.pid).collect();
        assert!(processes.len() > 20, "{} processes have answered", processes.len());
        eventually("the old ones are gone", || service.workers().len() == 2);
        eventually("all are reaped", || zombies(service.pid()).is_empty());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_request_in_hand_is_finished_by_the_old_process(backend: Backend) {
        let (mut service, address) = Running::service(backend, 1, &[]);
        let old = http_get(address).pid;
        let mut idle = HttpClient::connect(address).expect("a connection");
        idle.get().expect("an answer");
        let mut half = HttpClient::connect(address).expect("a connection");
        half.send(b"GET / HTTP/1.1\r\nHo").expect("half a request");
        // It is accepted when this, which came after it, is answered.
        http_get(address);
        assert_eq!(reload(&service), "ok");
        eventually("the old one says that an answer was its last", || {
            assert_eq!(idle.get().expect("one more answer").pid, old);
            idle.is_over()
        });
        assert_ne!(http_get(address).pid, old);
        assert_eq!(status(&service)["workers"][0]["draining"], 1);
        half.send(b"st: test\r\n\r\n").expect("the other half");
        assert_eq!(half.receive().expect("an answer").pid, old);
        eventually("the old one is gone", || service.workers().len() == 1);
        // Its master learns of it a moment later.
        eventually("only the new one hears", || {
            control(&service.control(), "broadcast hello") == "sent 1"
        });
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn whatever_is_wrong_with_the_new_the_old_serves_on(backend: Backend) {
        let mut probe = Program::probe(backend, "serve")
            .args(["--workers", "2", "--ready-timeout", "1500", "--canary", "300"])
            .start();
        probe.await_ready(2);
        let old = probe.workers();
        for (behaviour, reason) in [
            ("fail", "worker 0 ended before it was ready: exit status 1"),
            ("silent", "worker 0 ended before it was ready: killed: not ready within 1.5s"),
            ("ready-exit 3", "worker 0 ended within its canary time: exit status 3"),
        ] {
            probe.tell(behaviour);
            assert_eq!(reload(&probe), reason);
            assert_eq!(probe.workers(), old);
            assert_eq!(control(&probe.control(), "restart 0"), reason);
        }
        probe.tell("fail");
        let reason = "worker 2 ended before it was ready: exit status 1";
        assert_eq!(control(&probe.control(), "scale 3"), reason);
        assert_eq!(probe.workers(), old);
        probe.tell("serve");
        assert_eq!(reload(&probe), "ok");
        eventually("the old ones are gone", || {
            let now = probe.workers();
            now.len() == 2 && now.iter().all(|worker| !old.contains(worker))
        });
        let before = probe.workers();
        assert_eq!(control(&probe.control(), "restart 1"), "ok");
        eventually("one of them was replaced", || {
            let now = probe.workers();
            now.len() == 2 && now.iter().filter(|worker| before.contains(worker)).count() == 1
        });
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_roll_back_restores_the_configuration_too(backend: Backend) {
        let mut probe = Program::probe(backend, "fail-as 1").args(["--workers", "2"]).start();
        probe.tell("serve");
        probe.await_ready(2);
        let last = |worker: u32| {
            let log = probe.stderr();
            let mut lines = log.lines().filter(|line| line.contains(&format!("begins worker={worker}")));
            lines.next_back().unwrap_or_default().to_owned()
        };
        probe.configure("second");
        probe.tell("fail-as 1");
        assert!(reload(&probe).contains("worker 1 ended before it was ready"));
        assert_eq!(probe.stderr().matches("configuration=\"second\"").count(), 2);
        assert!(last(0).contains("configuration=\"first\""), "{}", probe.stderr());
        assert_eq!(control(&probe.control(), "scale 3"), "ok");
        assert!(last(2).contains("configuration=\"first\""), "{}", probe.stderr());
        probe.tell("serve");
        assert_eq!(reload(&probe), "ok");
        assert!((0..3).all(|worker| last(worker).contains("second")), "{}", probe.stderr());
        std::fs::remove_file(probe.path("configuration")).expect("it is there");
        assert!(reload(&probe).contains("no new configuration: No such file"));
        probe.signal(Signal::SIGHUP);
        eventually("the refusal is in the log", || {
            probe.stderr().matches("the reload was refused").count() == 2
        });
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn reloads_that_meet_are_one_more(backend: Backend) {
        let (mut service, _) = Running::service(backend, 2, &[]);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let asking: Vec<_> = (0..10).map(|_| scope.spawn(|| reload(&service))).collect();
            asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
        });
        assert!(outcomes.iter().all(|outcome| outcome == "ok"), "{outcomes:?}");
        let reached = generation(&service).expect("all are of one generation");
        assert!((2..=3).contains(&reached), "generation {reached}");
        for _ in 0..50 {
            service.signal(Signal::SIGHUP);
        }
        eventually("the signals are obeyed", || generation(&service) > Some(reached));
        assert_eq!(reload(&service), "ok");
        let reached = generation(&service).expect("all are of one generation") - reached;
        assert!(reached <= 4, "{reached} reloads");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn the_number_of_workers_changes_at_run_time(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &[]);
        let before = pids(&service);
        assert_eq!(control(&service.control(), "scale 5"), "ok");
        service.await_ready(5);
        assert_eq!(pids(&service)[..2], before);
        assert_eq!(control(&service.control(), "scale 1"), "ok");
        assert_eq!(pids(&service), before[..1]);
        assert_eq!(service.workers().len(), 1);
        for _ in 0..2 {
            service.signal(Signal::SIGTTOU);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(pids(&service), before[..1], "one is left");
        }
        service.signal(Signal::SIGTTIN);
        service.await_ready(2);
        http_get(address);
        for (command, answer) in [
            ("scale", "error: say how many workers"),
            ("scale -1", "error: say how many workers"),
            ("scale 20000", "error: more than 10000 workers are too many"),
        ] {
            let said = control(&service.control(), command);
            assert!(said.starts_with(answer), "{said}");
        }
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn no_worker_outlives_a_master_that_is_killed_during_a_reload(backend: Backend) {
        for delay in [0, 20, 60, 110, 150, 220] {
            let (mut service, _) = Running::service(backend, 3, &[]);
            service.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_millis(delay));
            service.signal(Signal::SIGKILL);
            service.wait();
            eventually("all its processes are gone", || service.processes().is_empty());
        }
    }

    fn a_stop_during_a_reload_is_in_order(backend: Backend) {
        for delay in [0, 20, 60, 110, 150, 220] {
            let (mut service, address) = Running::service(backend, 3, &["--lock-file", "lock"]);
            http_get(address);
            service.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_millis(delay));
            assert_eq!(service.stop(), 0, "{}", service.stderr());
            assert!(service.processes().is_empty() && !service.path("lock").exists());
        }
    }
}
