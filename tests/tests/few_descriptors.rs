//! A process with too few descriptors says so and ends, or works; it neither hangs nor panics.

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Program, WITHOUT_INHERITED, can_inject, control, eventually, free_port, is_alive,
    on_every_backend, try_http_get,
};

on_every_backend! {
    fn of_the_whole_system_are_waited_for(backend: Backend) {
        if !can_inject("failing system calls") {
            return;
        }
        std::thread::scope(|scope| {
            for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
                scope.spawn(move || accepts_after(backend, error));
            }
        });
    }

    fn are_an_error_or_enough(backend: Backend) {
        std::thread::scope(|scope| {
            // With fewer the system cannot even load a program.
            for limit in 4..=20 {
                scope.spawn(move || ends_or_serves(backend, limit));
            }
        });
    }
}

#[test]
fn the_soft_limit_of_a_shell_is_no_limit_for_the_master() {
    let options = ["--workers", "300", "--ready", "0"];
    let line = "ulimit -Sn >> limits; exec sleep 1000";
    let mut manager = Program::release_under(&["prlimit", "--nofile=1024:8192"])
        .args(["run", "--control", "control"])
        .args(options)
        .args(["--", "sh", "-c", line])
        .start();
    manager.await_ready(300);
    for _ in 0..10 {
        let before = manager.workers();
        assert_eq!(control(&manager.control(), "reload"), "ok", "{}", manager.stderr());
        manager.await_ready(300);
        assert!(!manager.workers().is_empty() && manager.workers() != before);
    }
    let have_that_of_before = || {
        let limits = std::fs::read_to_string(manager.path("limits")).unwrap_or_default();
        let others: Vec<_> = limits.lines().filter(|limit| *limit != "1024").collect();
        assert!(others.is_empty(), "workers have another limit: {others:?}");
        limits.lines().count() >= 300
    };
    eventually("workers have the limit of before", have_that_of_before);
    std::fs::remove_file(manager.path("limits")).expect("a file");
    assert_eq!(control(&manager.control(), "upgrade"), "ok", "{}", manager.stderr());
    eventually("also those of the next version", have_that_of_before);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// More than a `select` could watch, with what the master has for each of them.
#[test]
fn six_hundred_workers_are_told_of_reloaded_and_scaled() {
    let mut manager = Program::release()
        .args(["run", "--control", "control", "--workers", "600", "--ready", "0"])
        .args(["--start-timeout", "60s", "--", "sleep", "1000"])
        .start();
    manager.await_ready(600);
    let (code, told, _) = manager.ctl(&["status", "--json"]);
    assert_eq!((code, told.matches("\"ready\"").count()), (Some(0), 600), "{told}");
    let before = manager.workers();
    for (change, count) in [("reload", 600), ("scale 597", 597), ("scale 600", 600)] {
        assert_eq!(control(&manager.control(), change), "ok", "{}", manager.stderr());
        let told = control(&manager.control(), "status");
        assert_eq!(told.matches("\"ready\"").count(), count, "{change}: {told}");
    }
    assert!(manager.workers().iter().all(|worker| !before.contains(worker)));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_limit_that_is_reached_is_said() {
    let options = ["--workers", "300", "--ready", "notify"];
    let manager = Program::release_under(&["prlimit", "--nofile=256:256"])
        .args(["run", "--control", "control"])
        .args(options)
        .args(["--", "sleep", "1000"])
        .start();
    let said = "Too many open files (os error 24): this process may have 256";
    eventually("it is said", || manager.stderr().contains(said));
}

/// The limit of a process that runs is set below what it has open.
#[test]
fn than_are_open_do_not_end_a_manager() {
    let mut manager = Program::release()
        .args(["run", "--control", "control", "--ready", "0.1", "--", "sleep", "1000"])
        .start();
    manager.await_ready(1);
    let set = |limit: &str| {
        let (pid, limit) = (manager.pid().to_string(), format!("--nofile={limit}:"));
        let done = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(done.expect("prlimit").success());
    };
    set("4");
    let worker = manager.workers()[0];
    worker.signal(Signal::SIGKILL);
    eventually("its death is noticed", || !manager.workers().contains(&worker));
    set("1024");
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

fn ends_or_serves(backend: Backend, limit: u32) {
    let address = free_port();
    let limit_option = format!("--nofile={limit}");
    let launcher = [&WITHOUT_INHERITED[..], &["prlimit", &limit_option]].concat();
    let mut running = Program::under(&launcher, backend, "service")
        .args(["--lock-file", "lock"])
        .listen(address, 1)
        .start();
    eventually("it ends or serves", || !is_alive(running.pid()) || try_http_get(address).is_ok());
    if is_alive(running.pid()) {
        assert_eq!(running.stop(), 0);
    }
    let code = running.wait().code();
    let log = running.stderr();
    assert!(!log.contains("panicked"), "{limit}: {log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(
        code == Some(0) || code == Some(1) && last.contains("open files"),
        "{limit}: {code:?} {log}"
    );
}

/// In each process the first five calls of accept fail, for HTTP as for the control socket.
fn accepts_after(backend: Backend, error: &str) {
    let fault = format!("inject=accept4:error={error}:when=1..5");
    let launcher = ["strace", "-D", "-f", "-o", "/dev/null", "-e", &fault];
    let address = free_port();
    let mut running = Program::under(&launcher, backend, "service").listen(address, 1).start();
    running.await_ready(1);
    running.await_http(address);
    let log = running.stderr();
    for what in ["connections wait: they cannot be accepted now", "unsaid=0"] {
        assert_eq!(log.matches(what).count(), 2, "once in each process, {error}: {log}");
    }
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}
