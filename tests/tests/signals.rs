//! Signals with other actions than their own.

use nix::sys::signal::Signal;
use release_tests::{Process, Program, Running, control, eventually, on_every_backend};

fn start(program: Program) -> Running {
    let running = program.start();
    running.await_ready(1);
    running
}

/// Waits until the master has handled this signal.
fn handled(running: &Running, signal: Signal) {
    let line = format!("signal=\"{}\"", signal.as_str());
    let count = running.stderr().matches(&line).count();
    running.signal(signal);
    eventually("the signal is handled", || running.stderr().matches(&line).count() > count);
}

on_every_backend! {
    fn each_signal_has_the_action_that_was_set(backend: Backend) {
        let options = ["USR1=upgrade", "USR2=reload", "WINCH=add-worker", "HUP=ignore", "QUIT=stop"];
        let options = options.iter().flat_map(|option| ["--signal", option]);
        let mut running = start(Program::probe(backend, "serve").args(options));
        let first = running.workers();
        handled(&running, Signal::SIGWINCH);
        running.await_ready(2);
        running.signal(Signal::SIGHUP);
        handled(&running, Signal::SIGUSR2);
        eventually("all workers are new", || {
            let workers = running.workers();
            workers.len() == 2 && !workers.iter().any(|worker| first.contains(worker))
        });
        running.await_ready(2);
        let log = running.stderr();
        assert!(!log.contains("signal=\"SIGHUP\""), "{log}");
        handled(&running, Signal::SIGUSR1);
        eventually("the new version serves", || running.stderr().contains(" upgraded"));
        running.await_ready(2);
        running.signal(Signal::SIGQUIT);
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    }

    fn without_log_files_and_action_a_signal_changes_nothing(backend: Backend) {
        let mut running = start(Program::probe(backend, "serve").args(["--signal", "TTIN=ignore"]));
        let before = running.workers();
        for signal in [Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGTTIN] {
            running.signal(signal);
        }
        handled(&running, Signal::SIGTTOU);
        let refusal = control(&running.control(), "reopen");
        assert!(refusal.starts_with("there are no log files"), "{refusal}");
        assert_eq!(running.workers(), before);
        let ignored = running.process().status("SigIgn").expect("a mask");
        let ignored = u64::from_str_radix(&ignored, 16).expect("a mask");
        for signal in [Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGTTIN] {
            assert_ne!(ignored & 1 << (signal as i32 - 1), 0, "{signal}");
        }
        // Workers begin with the default.
        let worker: Process = running.workers()[0];
        let inherited = worker.status("SigIgn").expect("a mask");
        let inherited = u64::from_str_radix(&inherited, 16).expect("a mask");
        assert_eq!(inherited & 1 << (Signal::SIGTTIN as i32 - 1), 0);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

#[test]
fn a_file_and_the_command_line_set_actions() {
    let options = ["--ready", "0", "--config", "run.conf", "--signal", "USR2=stop"];
    let program = Program::manager_of_shell(&options, "exec sleep 1000");
    let text = "signal = [\"USR2=ignore\", \"USR1=add-worker\"]\n";
    std::fs::write(program.path("run.conf"), text).expect("a file");
    let mut running = start(program);
    handled(&running, Signal::SIGUSR1);
    running.await_ready(2);
    running.signal(Signal::SIGUSR2);
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
}
