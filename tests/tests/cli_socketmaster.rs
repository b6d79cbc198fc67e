//! `socketmaster`, as its manual has it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Account, Process, Program, Running, eventually, free_port, load, try_http_get,
};

/// A server in Python that ends by HUP.
fn serve(options: &[&str]) -> (Running, SocketAddr) {
    let address = free_port();
    let listen = format!("-listen=tcp://{address}");
    let program = Program::socketmaster().args([&listen]).args(options);
    // The program's path is a flag, and the script its first argument.
    let running = program.args(["-command"]).any_worker("none", "HUP").start();
    running.await_http(address);
    (running, address)
}

/// A program that is a line of the shell.
fn shell(options: &[&str], line: &str) -> Program {
    let program = Program::socketmaster().args(["-listen=tcp4://127.0.0.1:0"]).args(options);
    program.args(["-command=/bin/sh", "--", "-c", line])
}

/// Waits until there is one process more than those.
fn another(master: &Running, before: &[Process]) -> Process {
    let mut found = None;
    eventually("another process", || {
        found = master.workers().into_iter().find(|process| !before.contains(process));
        found.is_some()
    });
    found.expect("found")
}

#[test]
fn hup_replaces_the_process_under_load() {
    let (mut master, address) = serve(&["-start=300"]);
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        for _ in 0..4 {
            let before = master.workers();
            master.signal(Signal::SIGHUP);
            let new = another(&master, &before);
            eventually("the old one has gone", || master.workers() == [new]);
        }
        is_over.store(true, Ordering::Relaxed);
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", master.stderr());
    // The server ends by HUP alone: TERM, passed on, ends it by its default.
    assert_eq!(master.stop(), 0, "{}", master.stderr());
}

#[test]
fn usr1_puts_a_new_version_in_its_place() {
    let (mut master, address) = serve(&["-start", "200"]);
    let before = master.workers();
    master.signal(Signal::SIGUSR1);
    eventually("it has taken over", || master.stderr().contains("the new version takes over"));
    eventually("its processes are new", || {
        let workers = master.workers();
        !workers.is_empty() && !workers.iter().any(|worker| before.contains(worker))
    });
    assert!(try_http_get(address).is_ok());
    assert_eq!(master.stop(), 0, "{}", master.stderr());
}

#[test]
fn a_bad_new_process_leaves_the_old_one() {
    let (mut master, address) = serve(&["-start", "2000"]);
    let before = master.workers();
    master.behave("crash");
    master.signal(Signal::SIGHUP);
    eventually("it is taken back", || master.stderr().contains("rolled back"));
    assert_eq!(master.workers(), before);
    assert!(try_http_get(address).is_ok());
    assert_eq!(master.stop(), 0, "{}", master.stderr());
}

#[test]
fn without_a_start_time_nobody_is_signalled() {
    let (mut master, _) = serve(&["--start=0"]);
    for count in 2..=4 {
        let before = master.workers();
        master.signal(Signal::SIGHUP);
        another(&master, &before);
        assert_eq!(master.workers().len(), count);
    }
    // All of them hear what is passed on.
    assert_eq!(master.stop(), 0, "{}", master.stderr());
    eventually("nothing is left", || master.processes().is_empty());
}

#[test]
fn signals_are_passed_on_as_they_are() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let line = "for s in INT TERM QUIT HUP; do trap \"echo got $s; exit 0\" $s; done; \
            echo up; while :; do sleep 0.05; done";
        let program = shell(&["-start=100"], line);
        let out = program.path("out");
        let file = std::fs::File::create(&out).expect("a file");
        let mut master = program
            .with(|command| {
                command.stdout(file);
            })
            .start();
        let said = |text: &str| std::fs::read_to_string(&out).is_ok_and(|all| all.contains(text));
        eventually("it is up", || said("] up\n"));
        let pid = master.workers()[0].0;
        master.signal(signal);
        assert_eq!(master.wait().code(), Some(0), "{}", master.stderr());
        let name = signal.as_str().trim_start_matches("SIG");
        assert!(said(&format!("[{pid}] got {name}\n")), "{:?}", std::fs::read_to_string(&out));
    }
}

#[test]
fn who_does_not_listen_is_asked_again_and_never_killed() {
    let line = "trap 'count=x$count; echo heard $count >&2' TERM; echo up >&2; \
        while [ \"$count\" != xx ]; do sleep 0.05; done";
    let mut master = shell(&["-start=100"], line).start();
    let said = |text: &str| master.stderr().contains(text);
    eventually("it is up", || said("] up\n"));
    master.signal(Signal::SIGTERM);
    eventually("it has heard", || said("] heard x\n"));
    assert_eq!(master.workers().len(), 1);
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0), "{}", master.stderr());
}

#[test]
fn it_ends_with_its_last_process() {
    let (code, log) = shell(&["-start=100"], "echo EINHORN_FDS=$EINHORN_FDS >&2").run();
    assert!(code == 0 && log.contains("] EINHORN_FDS=3\n"), "{log}");
    let (code, log) = shell(&["-start=100"], "exit 9").run();
    assert!(code == 1 && log.contains("exit status 9"), "{log}");
}

#[test]
fn the_user_is_for_root_alone() {
    if nix::unistd::geteuid().is_root() {
        let mut master = shell(&["-start=100", "-user=nobody"], "exec sleep 1000").start();
        eventually("it is nobody's", || {
            master.workers().first().is_some_and(|worker| worker.command_line() == "sleep 1000")
        });
        let account = Account::named("nobody");
        account.is_all_of(master.workers()[0], &account.groups);
        assert_eq!(master.stop(), 0);
    } else {
        let (code, log) = shell(&["-user=nobody"], "true").run();
        assert!(code == 1 && log.contains("only root"), "{log}");
    }
}

#[test]
fn misuse_is_explained() {
    for (arguments, expected) in [
        (&["-listen=tcp://:0"][..], "--command"),
        (&["-comand=x"], "--command"),
        (&["-listen=http://:1", "-command=true"], "tcp://"),
        (&["-start=soon", "-command=true"], "soon"),
    ] {
        let (code, log) = Program::socketmaster().args(arguments).run();
        assert!(code == 2 && log.contains(expected), "{arguments:?}: {code} {log}");
    }
}
