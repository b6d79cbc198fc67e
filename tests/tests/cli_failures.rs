//! `release run` when something goes wrong: a version that does not come up, a full disk, misuse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Program, Running, control, eventually, is_alive, is_root, load, try_control, try_http_get,
};

#[test]
fn a_bad_new_version_never_takes_the_old_one_down() {
    let (mut manager, address) = Running::manager(&["--ready", "notify"], "notify", "TERM", 2);
    let before = manager.workers();
    manager.behave("crash");
    let answers = thread::scope(|scope| {
        let ask = || control(&manager.control(), "reload");
        let asked = [scope.spawn(ask), scope.spawn(ask)];
        asked.map(|one| one.join().expect("an answer"))
    });
    for answer in answers {
        assert!(answer.starts_with("error: ") && answer.contains("exit status 1"), "{answer}");
    }
    eventually("the old ones are alone", || manager.workers() == before);
    assert!(try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0);
}

#[test]
fn two_reloads_at_once_are_both_answered() {
    let (mut manager, address) = Running::manager(&["--ready", "notify"], "notify", "TERM", 2);
    let both = |expected: Option<i32>| {
        thread::scope(|scope| {
            let asked = [(); 2].map(|()| scope.spawn(|| manager.ctl(&["reload"])));
            for answer in asked {
                let (code, _, why) = answer.join().expect("an answer");
                assert_eq!(code, expected, "{why}");
            }
        });
    };
    let before = manager.workers();
    both(Some(0));
    eventually("two others are there", || {
        let now = manager.workers();
        now.len() == 2 && now.iter().all(|worker| !before.contains(worker))
    });
    let before = manager.workers();
    manager.behave("crash");
    both(Some(1));
    eventually("the two are left", || manager.workers() == before);
    assert!(try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_version_that_hangs_loses_nothing_and_the_reload_says_so() {
    let options = ["--ready", "notify", "--start-timeout", "2"];
    let (mut manager, address) = Running::manager(&options, "notify", "TERM", 1);
    let before = manager.workers();
    manager.behave("hang");
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        let (code, _, why) = manager.ctl(&["reload"]);
        is_over.store(true, Ordering::Relaxed);
        assert!(code == Some(1) && why.contains("not ready within 2s"), "{code:?}: {why}");
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", manager.stderr());
    eventually("the old one is alone", || manager.workers() == before);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_stale_control_socket_is_replaced_and_a_live_one_is_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let program = || {
        let program = Program::release().args(["run", "--ready", "0", "--control"]).args([&path]);
        program.args(["--", "sleep", "1000"])
    };
    let answers = || try_control(&path, "ping").is_ok_and(|answer| answer == "pong");
    let mut killed = program().start();
    eventually("the first one answers", answers);
    killed.signal(Signal::SIGKILL);
    killed.wait();
    assert!(path.exists() && !answers(), "nobody was left to remove it");
    let mut next = program().start();
    eventually("the next one answers", answers);
    let (code, log) = program().run();
    assert!(code == 1 && log.contains("somebody answers on the control socket"), "{log}");
    assert!(log.contains(&path.display().to_string()) && answers(), "{log}");
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    assert!(!path.exists());
}

#[test]
fn a_full_disk_is_said_for_the_pid_file_and_survived_for_the_log() {
    let release = Program::release_path();
    if is_root("mounting a full disk") {
        // `cd`: into what is mounted there now.
        let full = "mount -t tmpfs -o size=4k none . && cd $PWD && head -c 4096 /dev/zero > file; \
                    exec \"$@\"";
        let program = Program::command(&["unshare", "--mount", "sh", "-c", full, "sh"], &release);
        let (code, log) = program.args(["run", "--pid-file", "pid", "--", "sleep", "1000"]).run();
        assert!(code == 1 && log.contains("/pid: No space left on device"), "{log}");
    }
    let full = "exec \"$@\" >/dev/full 2>/dev/full";
    let mut manager = Program::command(&["sh", "-c", full, "sh"], &release)
        .args(["run", "--control", "control", "--ready", "0.1", "--"])
        .args(["sh", "-c", "while :; do echo word; sleep 0.01; done"])
        .start();
    eventually("it is ready", || {
        let status = try_control(&manager.control(), "status");
        status.is_ok_and(|status| status.contains("\"state\":\"ready\""))
    });
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert_eq!(manager.stop(), 0);
}

#[test]
fn files_that_may_not_grow_are_as_a_full_disk() {
    let release = Program::release_path();
    for command in [&["run", "--ready", "0.1"][..], &["daemon"]] {
        // A pipe takes what is said.
        let limited = "prlimit --fsize=0 \"$@\" 2>&1 | cat >&2";
        let program = Program::command(&["sh", "-c", limited, "sh"], &release);
        let options = ["--pid-file", "pid", "--", "sleep", "1000"];
        let (_, said) = program.args(command).args(options).run();
        assert!(said.contains("/pid: File too large"), "{said}");
    }
    let program = Program::command(&["prlimit", "--fsize=1000"], &release);
    let mut manager = program
        .args(["run", "--control", "control", "--ready", "0.1", "--"])
        .args(["sh", "-c", "while :; do echo word >&2; sleep 0.01; done"])
        .start();
    manager.await_ready(1);
    eventually("its log is full", || manager.stderr().len() == 1000);
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert_eq!(manager.stop(), 0);
}

#[test]
fn too_few_descriptors_are_no_end() {
    let release = Program::release_path();
    let program = Program::command(&["prlimit", "--nofile=40:40"], &release);
    let mut manager = program
        // A change waits for descriptors as long as for a worker's start.
        .args(["run", "--control", "control", "--ready", "0.1", "--start-timeout", "3"])
        .args(["--", "sleep", "1000"])
        .start();
    manager.await_ready(1);
    let answer = control(&manager.control(), "scale 30");
    assert!(answer.contains("Too many open files"), "{answer}");
    eventually("the one is left", || manager.workers().len() == 1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_slow_log_holds_nobody_up() {
    let program = Program::manager_of_shell(
        &["--ready", "0"],
        "yes >&2 & while :; do echo x; sleep 0.01; done",
    );
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Nobody reads from it.
    let mut manager = program
        .with(|command| {
            command.stdout(writer);
        })
        .start();
    manager.await_ready(1);
    for _ in 0..20 {
        assert_eq!(control(&manager.control(), "ping"), "pong");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(reader);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn quit_ends_everything_at_once_and_a_killed_manager_leaves_nothing() {
    let line = "trap '' TERM INT; while :; do sleep 1; done";
    let mut manager = Program::manager_of_shell(&["--ready", "0", "--workers", "2"], line).start();
    manager.await_ready(2);
    manager.signal(Signal::SIGQUIT);
    assert_eq!(manager.wait().code(), Some(3), "{}", manager.stderr());
    let mut manager = Program::manager_of_shell(&["--ready", "0", "--workers", "2"], line).start();
    manager.await_ready(2);
    let workers = manager.workers();
    manager.signal(Signal::SIGKILL);
    manager.wait();
    eventually("no worker is left", || workers.iter().all(|worker| !is_alive(worker.0)));
}

#[test]
fn misuse_is_explained() {
    for (arguments, expected) in [
        (&["run", "--", "no-such-program"][..], "no program `no-such-program`"),
        (&["run"], "no command"),
        (&["run", "--stop-sginal", "HUP", "--", "true"], "--stop-signal"),
        (&["run", "--stop-signal", "WHAT", "--", "true"], "TERM, HUP"),
        (&["run", "--listen", "http://:1", "--", "true"], "tcp://"),
        (&["run", "--listen", ":8080", "--", "true"], "is it tcp://:8080?"),
        (&["run", "--allow-read", "nobody", "--", "true"], "say `--control`"),
        (&["run", "--workers", "-1", "--", "true"], "a number from 1 to 10000"),
        (&["ctl", "--control", "x", "scale", "many"], "it is a number"),
        (&["run", "--user", "no-such-user", "--", "true"], "no-such-user"),
        (&["run", "--respawn", "never", "--", "/tmp"], "cannot start /tmp: it is a directory"),
    ] {
        let (code, log) = Program::release().args(arguments).run();
        assert!((code == 1 || code == 2) && log.contains(expected), "{arguments:?}: {code} {log}");
    }
}
