//! What the death of a worker leads to.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Process, Program, Running, control, eventually, http_get, on_every_backend, zombies,
};
use serde_json::Value;

fn status(service: &Running) -> Vec<Value> {
    let status = control(&service.control(), "status");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["workers"].as_array().expect("workers").clone()
}

fn pid(worker: &Value) -> Process {
    let pid = worker["pid"].as_i64().expect("a pid");
    Process(i32::try_from(pid).expect("a pid"))
}

on_every_backend! {
    fn a_killed_worker_comes_back_as_itself(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &[]);
        let before = status(&service);
        let victim = pid(&before[1]);
        victim.signal(Signal::SIGKILL);
        let line = format!("worker=1 pid={} exit=signal 9 (SIGKILL)", victim.0);
        eventually("the log says how it died", || service.stderr().contains(&line));
        service.await_ready(2);
        let after = status(&service);
        assert_eq!(after[0]["pid"], before[0]["pid"], "the other one lives on");
        assert_eq!((&after[1]["id"], &after[1]["restarts"]), (&1.into(), &1.into()));
        assert_ne!(pid(&after[1]), victim);
        http_get(address);
        eventually("all are reaped", || zombies(service.pid()).is_empty());
        // A real-time signal has no name.
        let kill = format!("kill -40 {}", pid(&after[0]).0);
        let killed = std::process::Command::new("sh").args(["-c", &kill]).status();
        assert!(killed.expect("sh runs").success());
        eventually("it is reported all the same", || service.stderr().contains("exit=signal 40 "));
        service.await_ready(2);
        assert_eq!(service.stop(), 0);
    }

    fn a_crash_loop_is_slow_and_ends(backend: Backend) {
        let probe = Program::probe(backend, "serve").args(["--workers", "2"]).start();
        probe.await_ready(2);
        probe.tell("ready-exit 3");
        let start = Instant::now();
        probe.workers()[0].signal(Signal::SIGKILL);
        let (mut answers, mut late) = (0, 0);
        eventually("it crashes again and again", || {
            let asked = Instant::now();
            control(&probe.control(), "");
            answers += 1;
            late += usize::from(asked.elapsed() > Duration::from_millis(100));
            probe.stderr().matches("exit=exit status 3").count() >= 3
        });
        // Now and then the machine itself is busy.
        assert!(late * 20 <= answers, "{late} of {answers} answers took longer than 100 ms");
        let starts = probe.stderr().matches("started worker=0").count()
            .max(probe.stderr().matches("started worker=1").count()) - 1;
        let seconds = start.elapsed().as_secs_f64();
        assert!(starts as f64 <= 5.0 * seconds.max(1.0), "{starts} starts in {seconds} s");
        probe.tell("serve");
        probe.await_ready(2);
        eventually("all are reaped", || zombies(probe.pid()).is_empty());
    }

    fn a_worker_that_cannot_start_ends_the_master(backend: Backend) {
        for (behaviour, reason) in [("fail", "exit status 1"), ("exit 3", "exit status 3")] {
            let start = Instant::now();
            let (code, log) = Program::probe(backend, behaviour).run();
            assert_eq!(code, 1, "{log}");
            let last = log.lines().last().unwrap_or_default();
            assert!(last.contains("failed 5 times before it was ready"), "{log}");
            assert!(last.ends_with(reason), "{log}");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        }
    }

    fn a_worker_that_is_never_ready_is_killed(backend: Backend) {
        let (code, log) = Program::probe(backend, "silent").args(["--ready-timeout", "150"]).run();
        assert_eq!(code, 1, "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("killed: not ready within 150ms"), "{log}");
    }

    fn deaths_while_the_master_was_stopped_are_all_noticed(backend: Backend) {
        let (mut service, address) = Running::service(backend, 8, &[]);
        service.signal(Signal::SIGSTOP);
        eventually("it has stopped", || {
            service.process().status("State").is_some_and(|state| state.starts_with('T'))
        });
        let workers = service.workers();
        for worker in &workers {
            worker.signal(Signal::SIGKILL);
        }
        eventually("all have died", || zombies(service.pid()).len() == 8);
        service.signal(Signal::SIGCONT);
        eventually("all are reaped", || zombies(service.pid()).is_empty());
        eventually("each has a successor", || {
            let now = service.workers();
            now.len() == 8 && now.iter().all(|worker| !workers.contains(worker))
        });
        service.await_ready(8);
        http_get(address);
        assert_eq!(service.stop(), 0);
    }

    fn a_failure_of_the_masters_main_task_ends_it(backend: Backend) {
        for (how, reason) in [("fail", "on purpose"), ("panic", "panicked: on purpose")] {
            let (code, log) = Program::probe(backend, "serve").args(["--main", how]).run();
            assert_eq!(code, 1, "{log}");
            assert!(log.lines().last().is_some_and(|last| last.ends_with(reason)), "{log}");
        }
    }
}
