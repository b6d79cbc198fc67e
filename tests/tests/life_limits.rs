//! Workers that have lived enough, by age, work or memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use release_tests::{Backend, Process, Program, Running, eventually, load, on_every_backend};

/// The service under load until every worker has had so many processes; no request may fail.
fn under_load(backend: Backend, options: &[&str], processes: usize) {
    let (mut service, address) = Running::service(backend, 3, options);
    let first: Vec<_> = service.workers();
    let is_over = AtomicBool::new(false);
    let (answers, failed) = thread::scope(|scope| {
        let load = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        let all_replaced = || {
            let log = service.stderr();
            (0..3).all(|id| log.matches(&format!(" ready worker={id} ")).count() >= processes)
        };
        let _over = OnDrop(&is_over);
        eventually("every worker was replaced", all_replaced);
        drop(_over);
        load.join().expect("the load")
    });
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), answers.len());
    let pids: HashSet<_> = answers.iter().map(|answer| answer.pid).collect();
    assert!(pids.len() > first.len(), "new ones have answered");
    let log = service.stderr();
    assert!(log.contains("over its limit, is replaced"), "{log}");
    assert!(!log.contains("died") && !log.contains("killed"), "{log}");
    assert_eq!(service.stop(), 0, "{}", service.stderr());
}

/// Ends the load when the test fails, too.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

on_every_backend! {
    fn no_request_is_lost_when_the_old_are_replaced(backend: Backend) {
        under_load(backend, &["--max-age", "1"], 3);
    }

    fn no_request_is_lost_when_the_busy_are_replaced(backend: Backend) {
        under_load(backend, &["--max-requests", "100"], 3);
    }

    fn no_request_is_lost_when_the_big_are_replaced(backend: Backend) {
        // All are, always: each must have its turn.
        under_load(backend, &["--max-memory", "1"], 2);
    }

    fn units_of_work_are_counted(backend: Backend) {
        let mut probe = Program::probe(backend, "works").args(["--max-requests", "50"]).start();
        probe.await_ready(1);
        let Process(first) = probe.workers()[0];
        let line = format!("over its limit, is replaced worker=0 pid={first} excess=");
        eventually("it has done enough", || probe.stderr().contains(&line));
        eventually("another one serves", || {
            matches!(probe.workers()[..], [Process(pid)] if pid != first)
        });
        assert!(!probe.stderr().contains("died"), "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }
}
