//! Children of the master beside its workers: their exits, what they hold, and their end.

use std::fs;
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Process, Program, Running, children, control, eventually, is_alive, is_root,
    on_every_backend, zombies,
};

/// Lives on, whatever it is told.
const DEAF: &str = "trap '' TERM; echo > deaf; while :; do sleep 0.05; done";

fn start(backend: Backend, options: &[&str]) -> Running {
    let running = Program::probe(backend, "serve").args(options).start();
    running.await_ready(1);
    running
}

fn ask(running: &Running, words: &str) -> String {
    control(&running.control(), words)
}

fn spawn(running: &Running, name: &str, script: &str) -> Process {
    let answer = ask(running, &format!("spawn {name} {script}"));
    Process(answer.parse().unwrap_or_else(|_| panic!("no process: {answer}")))
}

on_every_backend! {
    fn how_a_child_ends_is_told(backend: Backend) {
        let mut running = start(backend, &[]);
        assert_eq!(ask(&running, "run backup exit 7"), "exit status 7");
        assert_eq!(ask(&running, "run backup kill -9 $$"), "signal 9 (SIGKILL)");
        let agent = spawn(&running, "agent", "exec sleep 1000");
        assert_eq!(ask(&running, "pid agent"), agent.0.to_string());
        let twice = ask(&running, "run agent exit 0");
        let expected = format!("a child named `agent` is running (process {})", agent.0);
        assert!(twice.starts_with(&expected), "{twice}");
        assert_eq!(ask(&running, "end agent"), "signal 15 (SIGTERM)");
        assert_eq!(ask(&running, "pid agent"), "");
        assert_eq!(ask(&running, "run agent exit 0"), "exit status 0");
        assert!(zombies(running.pid()).is_empty());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_child_that_cannot_start_is_explained(backend: Backend) {
        let mut running = start(backend, &[]);
        for (program, expected) in [
            ("no-such-program", "there is no program `no-such-program` in PATH"),
            ("/no/such/program", "cannot start /no/such/program"),
            ("/etc/passwd", "cannot start /etc/passwd"),
        ] {
            let answer = ask(&running, &format!("run it program {program}"));
            assert!(answer.contains(expected), "{answer}");
        }
        assert_eq!(ask(&running, "run it exit 0"), "exit status 0");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_child_has_nothing_of_the_service(backend: Backend) {
        let mut running = start(backend, &["--listen", "listener"]);
        let child = spawn(&running, "agent", "exec sleep 1000");
        let numbers = |process: Process| -> Vec<_> {
            process.descriptors().into_iter().map(|(number, _)| number).collect()
        };
        eventually("it sleeps", || child.command_line() == "sleep 1000");
        // The loader of a program has its libraries open for a moment.
        eventually("it has nothing else", || numbers(child) == [0, 1, 2]);
        let stat = child.stat();
        let own = i64::from(child.0);
        assert_eq!((stat[1], stat[2], stat[3]), (own, own, 0), "group, session, terminal");
        assert_eq!(child.status("SigIgn").as_deref(), Some("0000000000000000"));
        assert_eq!(child.status("SigBlk").as_deref(), Some("0000000000000000"));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
        assert!(!is_alive(child.0));
    }

    fn a_child_outlives_reloads_and_not_its_master(backend: Backend) {
        let mut running = start(backend, &[]);
        let child = spawn(&running, "agent", "exec sleep 1000");
        for _ in 0..3 {
            assert_eq!(ask(&running, "reload"), "ok");
        }
        assert_eq!(ask(&running, "pid agent"), child.0.to_string());
        assert!(is_alive(child.0));
        running.signal(Signal::SIGKILL);
        running.wait();
        eventually("it dies with the master", || !is_alive(child.0));
    }

    fn a_child_stays_through_upgrades_with_its_name(backend: Backend) {
        let mut running = start(backend, &[]);
        let agent = spawn(&running, "agent", "exec sleep 1000");
        let unknown = ask(&running, "run agent exit 0");
        assert!(unknown.contains("is running"), "{unknown}");
        // The request begins again in each version, and waits for the same process.
        let script = "run backup echo $$ >> started; while [ ! -e go ]; do sleep 0.01; done; exit 7";
        thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&running, script));
            eventually("the backup runs", || running.path("started").exists());
            for _ in 0..2 {
                assert_eq!(ask(&running, "upgrade"), "ok");
            }
            fs::write(running.path("go"), "").expect("a file");
            assert_eq!(asking.join().expect("an answer"), "exit status 7");
        });
        let started = fs::read_to_string(running.path("started")).expect("a file");
        assert_eq!(started.lines().count(), 1, "{started}");
        // The first question for it returns the child, and starts no other.
        assert_eq!(spawn(&running, "agent", "exit 9"), agent);
        assert!(ask(&running, "spawn agent exit 9").contains("is running"));
        assert_eq!(ask(&running, "end agent"), "signal 15 (SIGTERM)");
        assert_eq!(ask(&running, "run agent exit 3"), "exit status 3");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn an_exit_that_nobody_has_asked_for_stays_through_an_upgrade(backend: Backend) {
        let mut running = start(backend, &["--main", "waits-for-a-child"]);
        eventually("it has ended", || running.stderr().contains("exit=exit status 5"));
        assert_eq!(ask(&running, "upgrade"), "ok");
        eventually("the new main task has it", || running.stderr().contains("the child of main ended with exit status 5"));
        let log = running.stderr();
        assert_eq!(log.matches("ran once").count(), 1, "{log}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_child_that_ignores_the_stop_is_killed(backend: Backend) {
        let mut running = start(backend, &["--stop-deadline", "300"]);
        spawn(&running, "deaf", DEAF);
        eventually("it ignores the signal", || running.path("deaf").exists());
        assert_eq!(ask(&running, "end deaf"), "signal 9 (SIGKILL)");
        fs::remove_file(running.path("deaf")).expect("a file");
        let deaf = spawn(&running, "deaf", DEAF);
        eventually("it ignores the signal", || running.path("deaf").exists());
        assert_eq!(running.stop(), 3, "{}", running.stderr());
        assert!(!is_alive(deaf.0));
        let log = running.stderr();
        assert!(log.contains("1 child did not stop in time and was killed"), "{log}");
    }

    fn an_immediate_stop_kills_children(backend: Backend) {
        let mut running = start(backend, &["--stop-deadline", "600000"]);
        let deaf = spawn(&running, "deaf", DEAF);
        eventually("it ignores the signal", || running.path("deaf").exists());
        running.signal(Signal::SIGTERM);
        eventually("it is told", || running.stderr().contains("signal=\"SIGTERM\""));
        running.signal(Signal::SIGQUIT);
        assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
        assert!(!is_alive(deaf.0));
    }

    fn what_a_child_leaves_in_its_group_ends_with_it(backend: Backend) {
        let mut running = start(backend, &[]);
        // It waits until the second one has left the group.
        let script = "sleep 1000 & echo $! > left; setsid sh -c 'echo $$ > gone; exec sleep 1000' & \
                      while [ ! -s gone ]; do sleep 0.01; done; exit 3";
        assert_eq!(ask(&running, &format!("run forker {script}")), "exit status 3");
        let pid = |file: &str| -> i32 {
            let text = fs::read_to_string(running.path(file)).expect("a file");
            text.trim().parse().expect("a number")
        };
        let (left, gone) = (pid("left"), pid("gone"));
        assert!(!is_alive(left), "a process of its group");
        assert!(is_alive(gone), "a process that has left its group is none of its own");
        Process(gone).signal(Signal::SIGKILL);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn the_exit_of_a_child_whose_group_lives_on_stays_through_an_upgrade(backend: Backend) {
        let mut running = start(backend, &["--stop-deadline", "600000"]);
        let deaf = "trap '' TERM; echo $$ > deaf.new; mv deaf.new deaf; while :; do sleep 0.05; done";
        let child = spawn(&running, "forker", &format!("sh -c \"{}\" & wait", deaf.replace('$', "\\$")));
        eventually("one of its group is deaf", || running.path("deaf").exists());
        let left = fs::read_to_string(running.path("deaf")).expect("a file");
        let left: i32 = left.trim().parse().expect("a number");
        thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&running, "end forker"));
            eventually("it has ended", || !child.path("").exists());
            assert!(is_alive(left), "a process of its group");
            assert_eq!(ask(&running, "upgrade"), "ok", "{}", running.stderr());
            assert!(is_alive(left), "the rest has its time, as before");
            Process(left).signal(Signal::SIGKILL);
            assert_eq!(asking.join().expect("an answer"), "signal 15 (SIGTERM)");
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn no_child_starts_when_the_others_have_been_told_to_end(backend: Backend) {
        let mut running = start(backend, &["--stop-deadline", "600000"]);
        let deaf = spawn(&running, "deaf", DEAF);
        eventually("it ignores the signal", || running.path("deaf").exists());
        running.signal(Signal::SIGTERM);
        let mut number = 0;
        eventually("it starts no more children", || {
            number += 1;
            let answer = ask(&running, &format!("spawn late{number} exec sleep 1000"));
            answer.contains("the master ends: it starts no more children")
        });
        running.signal(Signal::SIGQUIT);
        assert_eq!(running.wait().code(), Some(3), "{}", running.stderr());
        assert!(!is_alive(deaf.0));
    }

    fn process_1_does_not_take_their_exits(backend: Backend) {
        if !is_root("a process namespace") {
            return;
        }
        let launcher = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut unshare =
            Program::under(&launcher, backend, "probe").as_master("serve").start();
        unshare.await_ready(1);
        // Each leaves orphans, which are reaped meanwhile.
        let script = "(setsid sleep 0.05 &); (setsid sleep 0.1 &); sleep 0.1; exit 7";
        thread::scope(|scope| {
            let unshare = &unshare;
            let asking: Vec<_> = (0..20)
                .map(|number| scope.spawn(move || ask(unshare, &format!("run c{number} {script}"))))
                .collect();
            for one in asking {
                assert_eq!(one.join().expect("an answer"), "exit status 7");
            }
        });
        let init = children(unshare.pid())[0];
        eventually("orphans are reaped", || zombies(init.0).is_empty());
        spawn(&unshare, "agent", "exec sleep 1000");
        assert_eq!(ask(&unshare, "upgrade"), "ok");
        assert_eq!(ask(&unshare, "end agent"), "signal 15 (SIGTERM)");
        init.signal(Signal::SIGTERM);
        assert_eq!(unshare.wait().code(), Some(0), "{}", unshare.stderr());
        assert!(!unshare.stderr().contains("was lost"), "{}", unshare.stderr());
    }
}
