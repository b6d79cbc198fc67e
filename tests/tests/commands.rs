//! Workers that are any program: how they get their sockets, how they become
//! ready, how they end, and what becomes of what they write.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Account, Backend, Program, Running, control, eventually, free_port, is_root, load,
    on_all_backends_at_once, on_every_backend, try_http_get,
};

/// Python workers that become ready in this way and end by this signal.
fn serve(
    backend: Backend,
    options: &[&str],
    how: &str,
    end: &str,
    workers: usize,
) -> (Running, SocketAddr) {
    let address = free_port();
    let program = Program::new(backend, "commands")
        .args(["--control", "control", "--listen", &address.to_string()])
        .args(["--workers", &workers.to_string(), "--stop-signal", end])
        .args(options);
    let running = program.args(["--"]).any_worker(how, end).start();
    running.await_ready(workers);
    (running, address)
}

/// A command that is a line of the shell.
fn shell(backend: Backend, options: &[&str], line: &str) -> Program {
    Program::new(backend, "commands")
        .args(["--control", "control"])
        .args(options)
        .args(["--", "sh", "-c", line])
}

/// Which release-sockets directories belong to the test's user.
fn places() -> usize {
    ["/run".into(), std::env::temp_dir()]
        .iter()
        .flat_map(|base: &PathBuf| std::fs::read_dir(base).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("release-sockets-"))
        .count()
}

on_all_backends_at_once! {
    fn every_dialect_of_readiness_is_understood(backend: Backend) {
        for (ready, how) in [
            ("notify", "notify"),
            ("notify", "systemd-notify"),
            ("ack", "ack"),
            ("ack", "ack-fd"),
            ("newline", "newline"),
            ("newline:9", "newline"),
            ("300", "none"),
        ] {
            let (mut master, address) = serve(backend, &["--ready", ready], how, "TERM", 2);
            assert!(try_http_get(address).is_ok(), "{how}");
            assert_eq!(master.stop(), 0, "{how}: {}", master.stderr());
        }
    }

    fn who_says_nothing_is_not_ready(backend: Backend) {
        for ready in ["notify", "ack", "newline"] {
            let options = ["--ready", ready, "--ready-timeout", "200", "--listen", "127.0.0.1:0"];
            let program = Program::new(backend, "commands").args(options);
            let (code, log) = program.args(["--"]).any_worker("none", "TERM").run();
            assert_eq!(code, 1, "{log}");
            assert!(log.contains("not ready within 200ms"), "{log}");
        }
    }

    fn warnings_and_errors_are_written_without_a_log(backend: Backend) {
        let options = ["--unlogged", "--ready", "newline", "--ready-timeout", "200"];
        let (_, log) = shell(backend, &options, "exec sleep 1000").run();
        assert!(log.contains("ERROR killed worker=0"), "{log}");
        assert!(!log.contains(" INFO "), "{log}");
    }

    fn the_environment_sets_the_levels_of_the_log(backend: Backend) {
        let options = ["--ready", "newline", "--ready-timeout", "200"];
        let log = |levels: &str| {
            let program = shell(backend, &options, "exec sleep 1000");
            let with_levels = program.with(|command| {
                command.env("RUST_LOG", levels);
            });
            with_levels.run().1
        };
        for (levels, has_errors, has_all) in [
            ("", true, true),
            ("error", true, false),
            ("off", false, false),
            ("off,release_core=info", true, true),
            ("another=trace", true, true),
            ("loud", true, true),
        ] {
            let log = log(levels);
            assert_eq!(log.contains(" ERROR "), has_errors, "{levels}: {log}");
            assert_eq!(log.contains(" INFO "), has_all, "{levels}: {log}");
            assert_eq!(log.contains("RUST_LOG is ignored"), levels == "loud", "{log}");
        }
    }

    fn who_closes_the_descriptor_instead_is_not_waited_for(backend: Backend) {
        let options = ["--ready", "newline", "--ready-timeout", "60000"];
        let line = "eval \"exec $NOTIFY_FD>&-\"; exec sleep 1000";
        let mut master = shell(backend, &options, line).start();
        let reason = "it closed its readiness descriptor without a newline";
        eventually("it is not waited for", || master.stderr().contains(reason));
        master.stop();
    }

    fn one_that_writes_something_else_there_is_not_waited_for(backend: Backend) {
        let options = ["--ready", "newline", "--ready-timeout", "60000"];
        let line = "eval \"head -c 5000 /dev/zero >&$NOTIFY_FD\"; exec sleep 1000";
        let mut master = shell(backend, &options, line).start();
        let reason = "bytes without a newline to its readiness descriptor";
        eventually("it is not waited for", || master.stderr().contains(reason));
        master.stop();
        // A little is ignored.
        let line = "eval \"head -c 4000 /dev/zero >&$NOTIFY_FD; echo >&$NOTIFY_FD\"; exec sleep 1000";
        let mut master = shell(backend, &options, line).start();
        eventually("it is ready", || master.stderr().contains("all workers are ready"));
        assert_eq!(master.stop(), 0, "{}", master.stderr());
    }

    fn the_environment_is_its_own(backend: Backend) {
        let line = "env > out.new; mv out.new out; exec sleep 1000";
        let program = shell(backend, &["--listen", "127.0.0.1:0", "--ready", "1"], line);
        let program = program.with(|command| {
            command
                .env("NOTIFY_SOCKET", "/nowhere")
                .env("LISTEN_FDS", "7")
                .env("LISTEN_PIDFDID", "7")
                .env("WATCHDOG_USEC", "1000")
                .env("SOME", "thing");
        });
        let mut master = program.start();
        eventually("it has written its environment", || master.path("out").exists());
        let text = std::fs::read_to_string(master.path("out")).expect("a file");
        let has = |line: &str| text.lines().any(|other| other == line);
        let pid = master.workers()[0].0;
        assert!(has(&format!("LISTEN_PID={pid}")) && has("LISTEN_FDS=1"), "{text}");
        assert!(has("LISTEN_FDNAMES=socket0") && has("EINHORN_FDS=3"), "{text}");
        assert!(has(&format!("EINHORN_MASTER_PID={}", master.pid())) && has("SOME=thing"), "{text}");
        assert!(!text.contains("NOTIFY_SOCKET") && !text.contains("WATCHDOG"), "{text}");
        assert!(!text.contains("LISTEN_PIDFDID"), "{text}");
        // Not those that a program opens for a moment while it starts.
        eventually("it has its descriptors", || master.workers()[0].descriptors().len() == 4);
        let passed = master.workers()[0].descriptors();
        let numbers: Vec<_> = passed.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3], "{passed:?}");
        assert_eq!(passed[0].1, "/dev/null");
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).expect("a socket");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("a number");
        assert_eq!(flags & nix::fcntl::OFlag::O_NONBLOCK.bits(), 0, "{info}");
        assert_eq!(master.stop(), 0);
    }

    fn a_bad_new_version_never_takes_the_old_one_down(backend: Backend) {
        let options = ["--ready", "notify", "--ready-timeout", "4000"];
        let (mut master, address) = serve(backend, &options, "notify", "TERM", 2);
        let before = master.workers();
        for (how, reason) in [("crash", "exit status 1"), ("hang", "not ready within 4s")] {
            master.behave(how);
            let answer = control(&master.control(), "reload");
            assert!(answer.starts_with("error: ") && answer.contains(reason), "{answer}");
            eventually("the old ones are alone", || master.workers() == before);
            assert!(try_http_get(address).is_ok());
        }
        master.behave("well");
        assert_eq!(control(&master.control(), "reload"), "reloaded");
        assert_eq!(master.stop(), 0);
    }

    fn who_ignores_its_signal_is_killed(backend: Backend) {
        let options = ["--ready", "notify", "--stop-signal", "INT", "--stop-deadline", "1"];
        let line = "trap '' INT; systemd-notify --ready; while :; do sleep 1; done";
        let mut master = shell(backend, &options, line).start();
        master.await_ready(1);
        assert_eq!(master.stop(), 3, "{}", master.stderr());
        eventually("nothing is left", || master.processes().is_empty());
    }

    fn a_job_that_is_done_is_done(backend: Backend) {
        let ends = |respawn, line| shell(backend, &["--respawn", respawn, "--ready", "0"], line).run();
        assert_eq!(ends("on-failure", "exit 0").0, 0);
        assert_eq!(ends("never", "exit 0").0, 0);
        let (code, log) = ends("never", "exit 3");
        assert!(code == 1 && log.contains("exit status 3"), "{log}");
        let twice = "test -e once && exit 0; touch once; exit 5";
        let (code, log) = ends("on-failure", twice);
        assert!(code == 0 && log.contains("exit status 5"), "{log}");
    }

    fn output_is_whole_lines_up_to_the_last(backend: Backend) {
        let long = "x".repeat(5000);
        let line = format!("echo one; echo two >&2; echo {long}; printf 'no end'; exit 4");
        let options = ["--output", "--respawn", "never", "--ready", "0", "--workers", "3"];
        let (code, log) = shell(backend, &options, &line).run();
        assert_eq!(code, 1, "{log}");
        for id in 0..3 {
            for expected in [
                format!("[{id} out] one"),
                format!("[{id} err] two"),
                format!("[{id} out] {long}"),
                format!("[{id} out] no end"),
            ] {
                assert!(log.lines().any(|line| line == expected), "{expected}: {log}");
            }
        }
    }

    fn a_worker_of_root_s_is_its_user(backend: Backend) {
        if !is_root("a_worker_of_root_s_is_its_user") {
            return;
        }
        let account = Account::named("nobody");
        for (ready, how) in [("notify", "notify"), ("notify", "systemd-notify"), ("ack", "ack")] {
            let options = ["--ready", ready, "--user", "nobody"];
            let (mut master, address) = serve(backend, &options, how, "TERM", 1);
            account.is_all_of(master.workers()[0], &account.groups);
            assert!(try_http_get(address).is_ok());
            assert_eq!(master.stop(), 0);
        }
        let options = ["--ready", "notify", "--user", "nobody", "--group", "daemon"];
        let (mut master, _) = serve(backend, &options, "notify", "TERM", 1);
        assert_eq!(master.workers()[0].numbers("Gid"), [1; 4]);
        assert_eq!(master.stop(), 0);
    }

    fn a_worker_speaks_for_itself_alone(backend: Backend) {
        // The second worker says that the first is ready, in all ways that it has.
        let line = "echo $NOTIFY_SOCKET > socket.$EINHORN_CHILD_INDEX; sleep 1000 & \
            test $EINHORN_CHILD_INDEX = 0 && wait; \
            while ! test -s socket.0; do sleep 0.01; done; \
            NOTIFY_SOCKET=$(cat socket.0) systemd-notify --ready; systemd-notify --ready; wait";
        let options = ["--ready", "notify", "--workers", "2"];
        let mut master = shell(backend, &options, line).start();
        master.await_ready(1);
        assert_eq!(control(&master.control(), "status"), "\"starting\" \"ready\"");
        master.stop();
    }
}

on_every_backend! {
    fn reloads_under_load_lose_nothing(backend: Backend) {
        let (mut master, address) = serve(backend, &["--ready", "notify"], "notify", "USR2", 2);
        let is_over = AtomicBool::new(false);
        let (answers, failures) = thread::scope(|scope| {
            let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
            for _ in 0..5 {
                assert_eq!(control(&master.control(), "reload"), "reloaded");
            }
            is_over.store(true, Ordering::Relaxed);
            loading.join().expect("the load")
        });
        assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", master.stderr());
        assert_eq!(master.stop(), 0, "{}", master.stderr());
    }

    fn a_storm_of_output_is_complete(backend: Backend) {
        let options = ["--output", "--respawn", "never", "--ready", "0"];
        let line = "yes | head -n 50000; echo still here >&2";
        let (code, log) = shell(backend, &options, line).run();
        assert_eq!(code, 0, "{log}");
        let lines = log.lines().filter(|line| line.ends_with(" y")).count();
        assert_eq!(lines, 50_000);
        assert!(log.contains("[0 err] still here"), "{log:.1000}");
    }

    fn nothing_is_left_behind(backend: Backend) {
        let before = places();
        let (master, _) = serve(backend, &["--ready", "notify"], "notify", "TERM", 2);
        master.signal(Signal::SIGKILL);
        eventually("no worker outlives its master", || master.workers().is_empty());
        eventually("nothing works there", || master.processes().is_empty());
        drop(master);
        let (mut master, _) = serve(backend, &["--ready", "ack"], "ack", "TERM", 2);
        assert_eq!(master.stop(), 0);
        eventually("the directories are gone", || places() <= before);
    }
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let run = |options: &[&str], command: &[&str]| {
        Program::new(Backend::Tokio, "commands").args(options).args(["--"]).args(command).run()
    };
    let (code, log) = run(&[], &["no-such-program"]);
    assert!(code == 1 && log.contains("no program `no-such-program` in PATH"), "{log}");
    let (code, log) = run(&["--listen", "127.0.0.1:0", "--ready", "newline:3"], &["true"]);
    assert!(code == 1 && log.contains("descriptor 3"), "{log}");
}
