//! What becomes of a service in the foreground when its terminal goes.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use release_tests::{Backend, Program, Running, control, eventually, http_get, on_every_backend};

/// A service whose terminal is the other end of this, and its log.
fn on_a_terminal(launcher: &[&str], backend: Backend) -> (PtyMaster, Program) {
    // Nothing that any test starts inherits this end.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let terminal = posix_openpt(flags).expect("a pseudo terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it can be opened");
    let name = ptsname_r(&terminal).expect("it has a name");
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let ours = options.open(name).expect("the other end");
    let program = Program::under(launcher, backend, "service").with(|command| {
        command.stdin(ours.try_clone().expect("a duplicate")).stdout(ours);
    });
    (terminal, program.args(["--lock-file", "lock"]))
}

/// The launcher waits for the service, which is its only child.
fn signal(launched: &Running, signal: Signal) {
    launched.workers()[0].signal(signal);
}

fn leaves_nothing(running: &Running) {
    eventually("all its processes are gone", || running.processes().is_empty());
    assert!(!running.path("lock").exists(), "the lock file is left");
}

on_every_backend! {
    fn a_terminal_that_goes_ends_its_service_in_order(backend: Backend) {
        let launcher = ["setsid", "--ctty", "--wait"];
        let (terminal, program) = on_a_terminal(&launcher, backend);
        let (mut service, address) = program.serve(2);
        // With a terminal the signal is a request.
        signal(&service, Signal::SIGHUP);
        eventually("it reloads", || service.stderr().contains("reloaded generation=2"));
        http_get(address);
        drop(terminal);
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
        let log = service.stderr();
        assert_eq!(log.matches("reloaded generation").count(), 1, "{log}");
        assert!(log.contains("the terminal is gone"), "{log}");
        leaves_nothing(&service);
    }

    fn one_that_cannot_be_told_ends_when_its_words_are_lost(backend: Backend) {
        // In another session than the terminal's: no signal comes.
        let launcher = ["sh", "-c", "exec \"$0\" \"$@\" 2>&1"];
        let (terminal, program) = on_a_terminal(&launcher, backend);
        let (mut service, address) = program.serve(1);
        drop(terminal);
        http_get(address);
        control(&service.control(), "reload");
        assert_eq!(service.wait().code(), Some(0));
        leaves_nothing(&service);
    }

    fn under_nohup_it_stays(backend: Backend) {
        let launcher = ["setsid", "--ctty", "--wait", "env", "--ignore-signal=HUP"];
        let (terminal, program) = on_a_terminal(&launcher, backend);
        let (mut service, address) = program.serve(1);
        drop(terminal);
        // Nor is it a request of anybody else's.
        signal(&service, Signal::SIGHUP);
        assert_eq!(control(&service.control(), "reload"), "ok");
        http_get(address);
        let log = service.stderr();
        assert!(log.contains("SIGHUP is ignored since before the start"), "{log}");
        assert!(!log.contains("a signal arrived"), "{log}");
        signal(&service, Signal::SIGTERM);
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
        leaves_nothing(&service);
    }
}
