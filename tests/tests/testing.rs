//! The test kit: what it says of programs that misbehave, and that nothing is left of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use release_core::ControlCommand;
use release_core::testing::{Program, Running, TestFailure};
use release_tests::{is_alive, on_every_backend};

/// Enough for a shell to do what it should do, too little for what never happens.
const SHORT: Duration = Duration::from_secs(4);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

/// The directory of a program.
fn directory(program: &Program) -> PathBuf {
    program.path("x").parent().and_then(Path::parent).expect("a directory").to_owned()
}

/// The number that a script has written to its log.
fn logged_pid(running: &Running) -> i32 {
    let line = running.wait_for_line("pid ").expect("a line");
    line.strip_prefix("pid ").and_then(|pid| pid.parse().ok()).expect("a number")
}

fn says(failure: &TestFailure, words: &[&str]) {
    let text = failure.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// What a value that is dropped panics with.
fn panic_of(drop: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(drop)).expect_err("it panics");
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned()
}

const SERVES: &str = "echo pid $$; trap 'exit 0' TERM; while :; do sleep 0.01; done";

#[test]
fn a_program_that_never_gets_ready_is_ended() {
    let program = shell("echo pid $$ >&2; sleep 1000 & sleep 1000");
    let (place, pid_file) = (directory(&program), program.path("pid"));
    let failure = program.deadline(SHORT).ready_line("ready").start().unwrap_err();
    says(&failure, &["4s have passed before it was ready", "pid "]);
    let text = failure.to_string();
    let pid = text.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok());
    assert!(!is_alive(pid.expect("a number")) && !pid_file.exists() && !place.exists());

    let failure = shell("sleep 1000").deadline(SHORT).start().unwrap_err();
    says(&failure, &["READY=1", "NOTIFY_SOCKET", "`Program::control`", "the log is empty"]);
    let failure = shell("sleep 1000").deadline(SHORT).control("control").start().unwrap_err();
    says(&failure, &["4s have passed before it was ready"]);
}

#[test]
fn a_program_that_dies_at_once_is_told_with_its_log() {
    let dies = || shell("echo no database >&2; exit 7");
    let words = ["sh ended before it was ready: exit status 7", "no database"];
    says(&dies().ready_line("ready").start().unwrap_err(), &words);
    says(&dies().control("control").start().unwrap_err(), &words);
    let failure = dies().background("pid").start().unwrap_err();
    says(&failure, &["sh did not start: exit status 7", "no database"]);
    let failure = shell("exit 0").background("pid").start().unwrap_err();
    says(&failure, &["no process id in", "No such file"]);
    let failure = Program::new("/no/such/program").start().unwrap_err();
    says(&failure, &["cannot start /no/such/program: No such file"]);
    let failure = shell("").file("missing/conf", "").run().unwrap_err();
    says(&failure, &["cannot write", "missing/conf: No such file"]);
}

#[test]
fn a_child_that_is_left_is_found_and_killed() {
    // By its environment, by its group, by its directory.
    for leaves in [
        "(cd /; exec setsid sleep 1000) & echo pid $!",
        "(cd /; exec env -i sleep 1000) & echo pid $!",
        "env -i setsid sleep 1000 & echo pid $!",
    ] {
        let script = format!("{leaves}; trap 'exit 0' TERM; while :; do sleep 0.01; done");
        let mut running =
            shell(&script).ready_line("pid ").deadline(SHORT).start().expect("it starts");
        let child = logged_pid(&running);
        let failure = running.stop().unwrap_err();
        says(&failure, &[&format!("sh left behind: process {child} (sleep 1000)")]);
        assert!(!is_alive(child), "{leaves}");
    }
}

#[test]
fn a_child_that_only_the_program_knew_is_found_after_its_death() {
    let script = "(cd /; exec env -i setsid sleep 1000) & echo pid $!; exec sleep 1000";
    let mut running = shell(script).ready_line("pid ").deadline(SHORT).start().expect("it starts");
    let child = logged_pid(&running);
    running.wait_until("both run", || running.processes().len() == 2).expect("they do");
    running.signal("KILL").expect("it is killed");
    assert_eq!(running.wait().expect("it ends").code(), None);
    let text = panic_of(|| drop(running));
    assert!(text.contains(&format!("process {child} (sleep 1000)")), "{text}");
    assert!(!is_alive(child));
}

#[test]
fn one_that_ignores_sigterm_is_killed() {
    let deaf = "trap '' TERM; echo pid $$; while :; do sleep 0.01; done";
    let mut running = shell(deaf).ready_line("pid ").deadline(SHORT).start().expect("it starts");
    let pid = logged_pid(&running);
    let failure = running.stop().unwrap_err();
    says(&failure, &["sh did not end within 4s after SIGTERM and was killed"]);
    assert!(!is_alive(pid));
    // All is said.
    assert_eq!(running.stop().expect("it has ended").code(), None);
}

#[test]
fn files_that_are_left_are_named() {
    let script = format!("mkfifo pipe; mkdir -p a/b; ln -s x link; {SERVES}");
    let start = || shell(&script).file("before", "").ready_line("pid ");
    let running = start().start().expect("it starts");
    running.write("written", "by the test").expect("a file");
    let place = running.path(".");
    let text = panic_of(|| drop(running));
    let left = "the directory a, the directory a/b, the link link, the named pipe pipe\n";
    assert!(text.starts_with("sh left behind: ") && text.contains(left), "{text}");
    assert!(!place.exists());
    let mut running = start().leaves("a").leaves("pipe").leaves("link").start().expect("it starts");
    running.stop().expect("all is declared");
}

#[test]
fn an_exit_status_is_an_error_unless_the_test_has_seen_it() {
    let fails = || {
        let script = "echo pid $$; trap 'exit 3' TERM; while :; do sleep 0.01; done";
        shell(script).ready_line("pid ").start().expect("it starts")
    };
    let failure = fails().stop().unwrap_err();
    says(&failure, &["sh ended with exit status 3 after SIGTERM"]);
    assert!(panic_of(|| drop(fails())).contains("exit status 3"));
    let mut seen = fails();
    seen.signal("term").expect("it runs");
    assert_eq!(seen.wait().expect("it ends").code(), Some(3));
    drop(seen);
}

#[test]
fn a_test_that_panics_leaves_nothing_and_keeps_its_message() {
    let mut seen = None;
    let text = panic_of(|| {
        let running = shell(SERVES).ready_line("pid ").start().expect("it starts");
        seen = Some((logged_pid(&running), running.path(".")));
        panic!("the test's own reason");
    });
    assert_eq!(text, "the test's own reason");
    let (pid, place) = seen.expect("it has run");
    assert!(!is_alive(pid) && !place.exists());
}

#[test]
fn what_cannot_be_done_is_told_with_the_way_out() {
    let script = "echo pid $$; exec sleep 1000";
    let mut running = shell(script).ready_line("pid ").start().expect("it starts");
    says(&running.signal("USR3").unwrap_err(), &["there is no signal `USR3`"]);
    says(&running.status().unwrap_err(), &["`status`", "`Program::control`"]);
    says(&running.address().unwrap_err(), &["sh listens at no TCP address"]);
    running.signal("KILL").expect("it runs");
    let failure = running.wait_for_line("never").unwrap_err();
    says(&failure, &["sh ended before its log had `never`: signal 9 (SIGKILL)"]);
    running.wait().expect("it has ended");
    says(&running.signal("HUP").unwrap_err(), &["cannot send SIGHUP to sh"]);
}

on_every_backend! {
    fn a_socket_that_is_left_is_named(backend: Backend) {
        let service = || {
            Program::new(backend.program("service"))
                .args(["--listen", "127.0.0.1:0", "--control", "control"])
                .control("control")
        };
        let mut killed = service().start().expect("it starts");
        let workers = killed.status().expect("a status").workers;
        killed.signal("KILL").expect("it runs");
        killed.wait().expect("it ends");
        let failure = killed.stop().unwrap_err();
        says(&failure, &["left behind: the socket control"]);
        let pids = workers.iter().map(|worker| worker.pid.expect("a process"));
        assert!(pids.into_iter().all(|pid| !is_alive(pid)));

        let mut killed = service().leaves("control").start().expect("it starts");
        killed.signal("KILL").expect("it runs");
        killed.wait().expect("it ends");
        killed.stop().expect("it was declared");
    }

    fn workers_and_commands_are_known(backend: Backend) {
        let mut service = Program::new(backend.program("service"))
            .args(["--listen", "127.0.0.1:0", "--control", "control"])
            .control("control")
            .start()
            .expect("it starts");
        assert_eq!(service.processes().len(), 3, "{:?}", service.processes());
        says(&service.kill_worker(9).unwrap_err(), &["there is no worker 9"]);
        service.command(ControlCommand::Scale(1)).expect("one is enough");
        service.command(ControlCommand::Ping).expect("it answers");
        service.command(ControlCommand::Status).expect("it answers");
        let failure = service.command(ControlCommand::Scale(20_000)).unwrap_err();
        says(&failure, &["`scale 20000` failed: more than 10000 workers"]);
        assert_eq!(service.ask("broadcast hello").expect("an answer"), "sent 1");
        service.signal("TTIN").expect("it runs");
        let status = service.wait_for_status("there were two", |status| status.ready() == 2);
        assert_eq!(status.expect("a status").workers.len(), 2);
        assert_eq!(service.stop().expect("it stops").code(), Some(0));
    }

    fn readiness_is_told_to_a_service_manager(backend: Backend) {
        // The example calls `Master::systemd`.
        let service = Program::new(backend.program("service")).args(["--listen", "127.0.0.1:0"]);
        let mut service = service.start().expect("READY=1");
        assert_eq!(service.addresses().len(), 1);
        service.stop().expect("it stops");
    }
}
