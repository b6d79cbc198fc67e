//! A master that is process 1 of its namespace, as in a container.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use release_tests::{
    Process, Program, can_inject, children, control, eventually, free_port, is_root,
    on_every_backend, zombies,
};

/// What `unshare` has started: process 1, as it is called outside.
fn init(unshare: i32) -> Option<Process> {
    children(unshare).first().copied()
}

on_every_backend! {
    fn children_of_the_program_are_its_own(backend: Backend) {
        if !is_root("a process namespace") {
            return;
        }
        let launcher = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut unshare = Program::under(&launcher, backend, "probe")
            .as_master("serve")
            .args(["--main", "children"])
            .start();
        unshare.await_ready(1);
        eventually("both were waited for, or their status was lost", || {
            let log = unshare.stderr();
            log.matches("a child was waited for").count() == 2 || log.contains("the master stops")
        });
        let log = unshare.stderr();
        assert_eq!(log.matches("ExitStatus(unix_wait_status(1792))").count(), 2, "{log}");
        init(unshare.pid()).expect("process 1").signal(Signal::SIGTERM);
        assert_eq!(unshare.wait().code(), Some(0), "{}", unshare.stderr());
    }

    fn connections_are_handed_on_and_it_says_how_it_is(backend: Backend) {
        if !is_root("a process namespace") {
            return;
        }
        let launcher = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let address = free_port();
        let program = Program::under(&launcher, backend, "live").args([address.to_string()]);
        let mut unshare = program.start();
        unshare.await_ready(2);
        let ask = |client: &mut BufReader<TcpStream>| {
            client.get_mut().write_all(b"line\n").expect("a line");
            let mut answer = String::new();
            client.read_line(&mut answer).expect("an answer");
            answer
        };
        let connect = |_| BufReader::new(TcpStream::connect(address).expect("a connection"));
        let mut clients: Vec<_> = (0..10).map(connect).collect();
        assert!(clients.iter_mut().all(|client| ask(client) == "1 line\n"));
        assert_eq!(control(&unshare.control(), "reload"), "ok", "{}", unshare.stderr());
        assert!(clients.iter_mut().all(|client| ask(client) == "2 line\n"));
        let metrics = control(&unshare.control(), "metrics");
        assert!(metrics.contains("release_worker_memory_bytes{group=\"live\",worker=\"0\"}"), "{metrics}");
        assert!(metrics.contains("release_master_memory_bytes ") && metrics.contains("release_ready 1"));
        assert_eq!(control(&unshare.control(), "live"), "ok");
        children(init(unshare.pid()).expect("process 1").0)[0].signal(Signal::SIGKILL);
        eventually("a death is history", || {
            control(&unshare.control(), "history").contains("SIGKILL")
        });
        drop(clients);
        init(unshare.pid()).expect("process 1").signal(Signal::SIGTERM);
        assert_eq!(unshare.wait().code(), Some(0), "{}", unshare.stderr());
    }

    fn orphans_are_reaped_and_a_signal_ends_it(backend: Backend) {
        if !is_root("a process namespace") {
            return;
        }
        let launcher = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut unshare = Program::under(&launcher, backend, "probe")
            .as_master("orphans")
            .args(["--main", "orphans"])
            .start();
        unshare.await_ready(1);
        let init = init(unshare.pid()).expect("process 1");
        eventually("master and worker have left orphans", || {
            unshare.stderr().matches("left orphans").count() == 10
        });
        eventually("nothing but the worker is left of them", || {
            children(init.0).len() == 1 && zombies(init.0).is_empty()
        });
        // Several at once, among them the one that was started by the library.
        let worker = children(init.0)[0];
        worker.signal(Signal::SIGKILL);
        eventually("the worker's death is reported", || {
            unshare.stderr().contains("exit=signal 9 (SIGKILL)")
        });
        eventually("its successor has left orphans", || {
            unshare.stderr().matches("left orphans").count() == 15
        });
        unshare.await_ready(1);
        eventually("they are reaped", || zombies(init.0).is_empty());
        assert_eq!(std::fs::read_to_string(unshare.path("lock")).expect("the lock"), "1\n");
        init.signal(Signal::SIGTERM);
        assert_eq!(unshare.wait().code(), Some(0), "{}", unshare.stderr());
        assert!(!unshare.stderr().contains("was lost"), "{}", unshare.stderr());
        assert!(!unshare.path("lock").exists() && !unshare.control().exists());
    }
}

/// Leaves orphans, and ends while they are reaped.
const AMONG_ORPHANS: &str =
    "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid sleep 0.2 &); done; sleep 0.6; exit 7";

/// Reaping is slow enough for that to happen.
#[test]
fn how_a_worker_has_ended_is_not_lost_among_orphans() {
    if !is_root("a process namespace") || !can_inject("slow system calls") {
        return;
    }
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let slow = ["strace", "-D", "-o", "/dev/null", "-e", "inject=waitid:delay_enter=20000"];
    let manager = Program::release_under(&[&namespace[..], &slow].concat())
        .args(["run", "--ready", "10ms", "--", "sh", "-c", AMONG_ORPHANS])
        .start();
    eventually("it has died twice", || manager.stderr().matches("died, is started").count() == 2);
    let log = manager.stderr();
    assert_eq!(log.matches("exit=exit status 7").count(), 2, "{log}");
}
