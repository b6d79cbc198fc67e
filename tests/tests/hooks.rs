//! What becomes of a master whose own functions panic or block: it goes on.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release_tests::{
    Program, Running, control, eventually, is_alive, on_every_backend, try_control,
};

/// What the functions of the program do from now on.
fn tell(directory: &Path, hook: &str) {
    let new = directory.with_file_name("hooks.new");
    std::fs::write(&new, hook).expect("written");
    std::fs::rename(&new, directory).expect("replaced");
}

fn hooks(running: &Running, hook: &str) {
    tell(&running.path("hooks"), hook);
}

fn logs(running: &Running, words: &str) {
    eventually(&format!("it says {words}"), || running.stderr().contains(words));
}

/// What makes a hook be called, and what the log, or the answer to a request, says of its panic.
const HOOKS: [(&str, &str, &str); 16] = [
    ("output", "", "reason=`output` panicked: in output"),
    ("answer", "", "reason=`answer` panicked: in answer"),
    ("answer at once", "", "reason=`answer` panicked: in answer at once"),
    ("drop", "", "in drop"),
    ("rule", "", "reason=`answer_permitted's rule` panicked: in rule"),
    ("state", "kill", "`answer_permitted's state` panicked: in state"),
    ("decode", "", "a message made this side's codec or guard panic"),
    ("observe", "kill", "the observer panicked panic=\"in observe\""),
    ("context", "reload", "`context` panicked: in context"),
    ("worker_options", "reload", "`worker_options` panicked: in worker_options"),
    ("settings", "reload", "`settings` panicked: in settings"),
    ("size_from", "reload", "`size_from` panicked: in size_from"),
    ("taken back", "reload", "reason=`settings` panicked: in taken back"),
    ("hand_over", "upgrade", "`hand_over` panicked: in hand_over"),
    ("spawn", "spawn", "panic=\"in spawn\""),
    ("unblock", "unblock", "in unblock"),
];

fn kill_worker(running: &Running) {
    let mut before = 0;
    eventually("there is a worker", || {
        before = running.workers().first().map_or(0, |worker| worker.0);
        before != 0
    });
    kill(Pid::from_raw(before), Signal::SIGKILL).expect("it can be signalled");
    eventually("its end is noticed", || running.workers().iter().all(|now| now.0 != before));
}

on_every_backend! {
    fn a_master_survives_its_hooks(backend: Backend) {
        let mut running = Program::new(backend, "hooks").start();
        running.await_ready(1);
        for (hook, trigger, words) in HOOKS {
            hooks(&running, hook);
            match trigger {
                "" => {}
                "kill" => kill_worker(&running),
                request => {
                    let answer = control(&running.control(), request);
                    assert_eq!(answer == "ok", hook == "spawn", "{hook}: {answer}");
                    assert!(hook != "unblock" || answer.ends_with("`unblock` panicked: in unblock"));
                }
            }
            logs(&running, words);
            hooks(&running, "");
            running.await_ready(1);
            kill_worker(&running);
            running.await_ready(1);
        }
        for hook in ["control", "control at once"] {
            hooks(&running, hook);
            assert!(try_control(&running.control(), "status").is_err());
            logs(&running, &format!("reason=`control` panicked: in {hook}"));
            hooks(&running, "");
            running.await_ready(1);
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_state_function_runs_inside_of_the_runtime_after_an_upgrade(backend: Backend) {
        let mut running = Program::new(backend, "hooks").start();
        running.await_ready(1);
        // Works only where the runtime is.
        hooks(&running, "local task");
        assert_eq!(control(&running.control(), "upgrade"), "ok", "{}", running.stderr());
        running.await_ready(1);
        assert!(!running.stderr().contains("panicked"), "{}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_main_task_that_panics_ends_the_master_in_order(backend: Backend) {
        let mut running = Program::new(backend, "hooks").start();
        running.await_ready(1);
        let worker = running.workers()[0].0;
        hooks(&running, "main");
        assert_eq!(running.wait().code(), Some(1), "{}", running.stderr());
        let log = running.stderr();
        assert!(log.contains("a task of the master panicked: `main` panicked: in main"), "{log}");
        assert!(!is_alive(worker));
        // At once, before there is a task.
        let program = Program::new(backend, "hooks");
        tell(&program.path("hooks"), "main at once");
        let (code, log) = program.run();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("`main` panicked: in main at once"), "{log}");
    }

    fn hooks_that_panic_at_the_start_refuse_it(backend: Backend) {
        for hook in ["worker_options", "size_from", "driver"] {
            let program = Program::new(backend, "hooks");
            tell(&program.path("hooks"), hook);
            let (code, log) = program.run();
            assert_eq!(code, 1, "{log}");
            assert!(log.contains(&format!("`{hook}` panicked: in {hook}")), "{log}");
        }
    }

    fn a_handler_that_blocks_is_named(backend: Backend) {
        let mut running = Program::new(backend, "hooks").start();
        running.await_ready(1);
        hooks(&running, "block");
        logs(&running, "the master was busy for 1.");
        hooks(&running, "");
        assert!(running.stderr().contains("s: `answer` did not give way"), "{}", running.stderr());
        running.await_ready(1);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}
