//! Machines that do not allow all that a master does: what is said, and that it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release_tests::{
    Process, Program, Running, can_inject, children, control, eventually, is_root,
    on_every_backend, open_to_all,
};

/// As root without the right to signal processes of other users.
const MAY_NOT_KILL: [&str; 3] = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];

fn refuses(mut program: Running, why: &str) {
    assert_eq!(program.wait().code(), Some(1), "{}", program.stderr());
    let log = program.stderr();
    assert!(log.contains(why), "{why}: {log}");
    assert!(!log.contains("killed") && !log.contains("is tried again"), "{log}");
    assert!(program.processes().is_empty(), "{:?}", program.processes());
}

on_every_backend! {
    fn a_master_that_cannot_end_its_workers_does_not_start(backend: Backend) {
        if !is_root("other accounts") {
            return;
        }
        let probe = Program::under(&MAY_NOT_KILL, backend, "probe").as_master("").start();
        refuses(probe, "needs the capability CAP_KILL");
    }

    fn another_thread_is_no_reason_not_to_run_in_the_foreground(backend: Backend) {
        let mut probe = Program::probe(backend, "").args(["--thread"]).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        assert!(probe.stderr().contains("there are threads before"), "{}", probe.stderr());
    }

    fn a_worker_by_another_name_is_a_worker(backend: Backend) {
        let (place, program) = open_to_all(backend, "probe");
        let wrapper = place.path().join("wrapper");
        // Who asks by the name alone is a master, with all that it is told to be.
        let run = format!("exec -a other {} master --user nobody", program.display());
        fs::write(&wrapper, format!("#!/bin/bash\n{run}\n")).expect("written");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut probe = Program::probe(backend, "").args(["--worker"]).args([&wrapper]).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }
}

#[test]
fn a_program_that_could_not_be_ended_is_not_run() {
    if !is_root("other accounts") {
        return;
    }
    let manager = Program::release_under(&MAY_NOT_KILL)
        .args(["run", "--user", "nobody", "--", "sleep", "1000"])
        .start();
    refuses(manager, "needs the capability CAP_KILL");
}

#[test]
fn a_kernel_that_refuses_what_is_needed_is_asked_once() {
    if !can_inject("system calls that fail") {
        return;
    }
    for (call, errno, why) in [
        ("pidfd_send_signal", "EPERM", "the system call pidfd_send_signal"),
        ("pidfd_open", "ENOSYS", "pidfd_open: Function not implemented"),
        ("setsid", "ENOSYS", "setsid: Function not implemented"),
        ("pidfd_open", "EPERM", "has to allow the call"),
    ] {
        let inject = format!("inject={call}:error={errno}");
        let launcher = ["strace", "-f", "-o", "/dev/null", "-e", &inject];
        let manager =
            Program::release_under(&launcher).args(["run", "--", "sleep", "1000"]).start();
        refuses(manager, why);
    }
}

#[test]
fn descriptors_are_closed_one_by_one_where_there_is_no_other_way() {
    if !can_inject("system calls that fail") {
        return;
    }
    for errno in ["ENOSYS", "EPERM"] {
        let inject = format!("inject=close_range:error={errno}");
        let launcher = ["strace", "-f", "-o", "/dev/null", "-e", &inject];
        let mut manager = Program::release_under(&launcher)
            .args(["run", "--control", "control", "--ready", "10ms", "--", "sleep", "1000"])
            .start();
        manager.await_ready(1);
        let stopped = control(&manager.control(), "stop");
        assert!(stopped.starts_with("ok"), "{stopped}");
        assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
    }
}

/// Becomes another user by itself, once it is ready and told to.
const CHANGES: &str = "while ! test -e change; do sleep 0.02; done; exec setpriv --reuid=65534 --clear-groups sleep 1000";

#[test]
fn a_stop_that_cannot_kill_ends_and_a_reload_is_refused() {
    if !is_root("other accounts") {
        return;
    }
    let mut manager = Program::release_under(&MAY_NOT_KILL)
        .args(["run", "--control", "control", "--ready", "10ms", "--stop-timeout", "300ms"])
        .args(["--", "sh", "-c", CHANGES])
        .start();
    manager.await_ready(1);
    let worker = children(manager.pid())[0];
    fs::write(manager.path("change"), "").expect("written");
    eventually("it is another user", || worker.numbers("Uid") == [65534; 4]);
    let refused = control(&manager.control(), "reload");
    assert!(refused.contains("CAP_KILL"), "{refused}");
    assert_eq!(children(manager.pid()), [worker]);
    assert_eq!(manager.stop(), 1, "{}", manager.stderr());
    let log = manager.stderr();
    assert!(log.contains("cannot be ended, is left behind"), "{log}");
    assert!(!log.contains("killed"), "{log}");
    assert!(release_tests::is_alive(worker.0), "{log}");
    end(worker);
}

#[test]
fn a_start_whose_worker_cannot_be_ended_has_failed() {
    if !is_root("other accounts") {
        return;
    }
    let mut manager = Program::release_under(&MAY_NOT_KILL)
        .args(["run", "--control", "control", "--ready", "500ms", "--stop-timeout", "300ms"])
        .args(["--", "setpriv", "--reuid=65534", "--clear-groups", "sleep", "1000"])
        .start();
    eventually("the worker runs", || children(manager.pid()).len() == 1);
    let worker = children(manager.pid())[0];
    assert_eq!(manager.wait().code(), Some(1), "{}", manager.stderr());
    let log = manager.stderr();
    assert!(log.contains("CAP_KILL") && !log.contains("all workers are ready"), "{log}");
    assert!(!log.contains("killed"), "{log}");
    end(worker);
}

fn end(worker: Process) {
    kill(Pid::from_raw(worker.0), Signal::SIGKILL).expect("it is still there");
    eventually("it has gone", || !release_tests::is_alive(worker.0));
}

/// Has no /proc, as in some containers.
const WITHOUT_PROC: &str = "mount -t tmpfs none /proc && exec \"$@\"";

#[test]
fn a_master_in_the_foreground_needs_no_proc() {
    if !is_root("a file system of its own") {
        return;
    }
    let launcher = ["unshare", "--mount", "sh", "-c", WITHOUT_PROC, "sh"];
    let mut manager = Program::release_under(&launcher)
        .args(["run", "--control", "control", "--ready", "10ms", "--", "sleep", "1000"])
        .start();
    manager.await_ready(1);
    assert_eq!(control(&manager.control(), "reload"), "ok", "{}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
