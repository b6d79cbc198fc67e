//! The control socket's file and who may use it.
//!
//! Binding comes before the runtime and is the same on every backend; accepting is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, ControlClient, Program, Running, can_inject, control, eventually, free_port, is_root,
    on_every_backend, open_to_all, try_control,
};

/// `service` with its control socket at this path.
fn at(path: &Path) -> Program {
    Program::new(Backend::Tokio, "service")
        .args(["--workers", "1", "--listen", &free_port().to_string()])
        .args(["--control".as_ref(), path.as_os_str()])
}

fn answers(running: &Running, path: &Path) {
    eventually("the control socket answers", || {
        try_control(path, "ping").is_ok_and(|answer| answer == "pong")
            || !release_tests::is_alive(running.pid())
    });
    assert_eq!(control(path, "ping"), "pong", "{}", running.stderr());
}

fn refused(path: &Path, why: &str) {
    let (code, log) = at(path).run();
    assert_eq!(code, 1, "{log}");
    assert!(log.lines().last().is_some_and(|last| last.contains(why)), "`{why}`: {log}");
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("it exists").ino()
}

#[test]
fn a_dead_one_is_replaced_and_a_live_one_is_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let mut killed = at(&path).start();
    answers(&killed, &path);
    killed.signal(Signal::SIGKILL);
    killed.wait();
    assert!(path.exists(), "nobody was left to remove it");

    let mut first = at(&path).start();
    answers(&first, &path);
    let before = inode(&path);
    refused(&path, "already running: somebody answers on the control socket");
    assert_eq!(inode(&path), before);
    answers(&first, &path);
    assert_eq!(first.stop(), 0);
    assert!(!path.exists());

    // Somebody else's, who does not even accept.
    let listener = UnixListener::bind(&path).expect("a socket");
    refused(&path, "somebody answers on the control socket");
    drop(listener);
    let mut second = at(&path).start();
    answers(&second, &path);
    assert_eq!(second.stop(), 0);
}

#[test]
fn of_two_that_start_at_once_one_gets_it() {
    if !can_inject("a slow start") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let slow = "inject=listen:delay_enter=300000";
    let launcher = ["strace", "-D", "-f", "-o", "/dev/null", "-e", slow];
    let mut first = Program::under(&launcher, Backend::Tokio, "service")
        .args(["--workers", "1", "--listen", &free_port().to_string()])
        .args(["--control".as_ref(), path.as_os_str()])
        .start();
    // It does not answer yet, as one that was killed would not.
    eventually("it has bound its socket", || path.exists());
    let before = inode(&path);
    refused(&path, "already running: somebody answers on the control socket");
    assert_eq!(inode(&path), before);
    answers(&first, &path);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    assert!(!path.exists());
}

#[test]
fn whatever_else_is_at_the_path_is_refused_and_untouched() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let target = place.path().join("target");
    fs::write(&target, "precious").expect("a file");
    let why = "something that is not a socket is there";

    fs::copy(&target, &path).expect("a file");
    refused(&path, why);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    fs::remove_file(&path).expect("it is still there");
    symlink(&target, &path).expect("a link");
    refused(&path, why);
    assert_eq!(fs::read_to_string(&target).expect("the file"), "precious");
    fs::remove_file(&path).expect("it is still there");
    symlink(place.path().join("nothing"), &path).expect("a link");
    refused(&path, why);
    fs::remove_file(&path).expect("it is still there");
    fs::create_dir(&path).expect("a directory");
    refused(&path, why);
    refused(&place.path().join("missing/control"), "/missing, make it first: No such file");
    refused(&target.join("control"), "Not a directory");
}

#[test]
fn the_longest_path_is_the_systems() {
    let place = tempfile::tempdir().expect("a directory");
    let of_length = |length: usize| -> PathBuf {
        let rest = length - place.path().as_os_str().len() - 1;
        place.path().join("x".repeat(rest))
    };
    let longest = of_length(107);
    let mut running = at(&longest).start();
    answers(&running, &longest);
    assert_eq!(running.stop(), 0);
    refused(&of_length(108), "has 108 bytes, and the system allows 107");
}

#[test]
fn its_mode_is_right_from_the_first_moment() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    for _ in 0..10 {
        let launcher = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
        let mut running = Program::under(&launcher, Backend::Tokio, "service")
            .args(["--workers", "1", "--listen", &free_port().to_string()])
            .args(["--control".as_ref(), path.as_os_str()])
            .start();
        while try_control(&path, "ping").is_err() {
            if let Ok(metadata) = path.metadata() {
                assert_eq!(metadata.mode() & 0o7777, 0o600);
            }
        }
        assert_eq!(running.stop(), 0);
    }
}

on_every_backend! {
    fn one_that_was_removed_is_there_again(backend: Backend) {
        let (mut service, _) = Running::service(backend, 1, &[]);
        let path = service.control();
        let mut old = ControlClient::connect(&path).expect("it is there");
        let mut starts = ["HUP", "a death"].into_iter().cycle();
        for _ in 0..4 {
            eventually("there is one worker", || service.workers().len() == 1);
            fs::remove_file(&path).expect("a file");
            match starts.next() {
                Some("HUP") => service.signal(Signal::SIGHUP),
                _ => service.workers()[0].signal(Signal::SIGKILL),
            }
            answers(&service, &path);
            assert_eq!(fs::metadata(&path).expect("a socket").mode() & 0o777, 0o600);
            // Who was connected before still is.
            assert_eq!(old.ask("ping").expect("an answer"), "pong");
            service.await_ready(1);
        }
        assert_eq!(control(&path, "upgrade"), "ok", "{}", service.stderr());
        assert_eq!(old.ask("ping").expect("an answer"), "pong");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(!path.exists());
    }

    fn what_somebody_else_has_put_there_stays(backend: Backend) {
        let (mut service, _) = Running::service(backend, 1, &[]);
        let path = service.control();
        fs::remove_file(&path).expect("a file");
        let theirs = UnixListener::bind(&path).expect("a socket");
        let inode = inode(&path);
        service.signal(Signal::SIGHUP);
        eventually("it is said", || service.stderr().contains("something else is there"));
        drop(theirs);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert_eq!(fs::metadata(&path).expect("a file").ino(), inode);
    }
}

on_every_backend! {
    fn other_users_are_refused_whatever_the_mode(backend: Backend) {
        if !is_root("becoming another user") {
            return;
        }
        let (place, probe) = open_to_all(backend, "probe");
        let path = place.path().join("control");
        let mut running = at(&path).start();
        answers(&running, &path);
        let ask = |user: u32| {
            let output = Command::new("setpriv")
                .args([format!("--reuid={user}"), format!("--regid={user}")])
                .args(["--clear-groups".as_ref(), probe.as_os_str(), "client".as_ref()])
                .arg(&path)
                .output()
                .expect("setpriv runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        let (code, said) = ask(65534);
        assert!(code == Some(1) && said.contains("Permission denied"), "{code:?} {said}");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("a mode");
        let (code, said) = ask(65534);
        assert!(code == Some(1) && !said.contains("Permission denied"), "{code:?} {said}");
        assert!(running.stderr().contains("a control connection was refused uid=65534"));
        assert_eq!(ask(0).0, Some(0), "root is admitted");
        assert_eq!(running.stop(), 0);
    }
}
