//! Deploying: a link is turned to another release, and workers that start then run that one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use release_tests::{Program, Running, children, control, eventually, is_root, on_every_backend};

/// A program that says which release it is of, by its own words and by where it runs.
fn release(place: &Path, number: u32) {
    let directory = place.join(format!("releases/{number}"));
    fs::create_dir_all(&directory).expect("a directory");
    let server = directory.join("server");
    let script = format!(
        "#!/bin/sh\necho \"release {number} in $(pwd -P) as $PWD $*\" >> {}/log\nexec sleep 1000\n",
        place.display()
    );
    fs::write(&server, script).expect("written");
    fs::set_permissions(server, fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// In one step, as deployments do.
fn turn_to(place: &Path, number: u32) {
    let new = place.join("new");
    symlink(format!("releases/{number}"), &new).expect("a link");
    fs::rename(new, place.join("current")).expect("turned");
}

fn last(manager: &Running) -> String {
    let log = fs::read_to_string(manager.path("log")).unwrap_or_default();
    log.lines().last().unwrap_or_default().to_owned()
}

fn runs(manager: &Running, number: u32) {
    let place = manager.path("");
    let place = fs::canonicalize(place).expect("a directory");
    let place = place.display();
    let expected = format!("release {number} in {place}/releases/{number} as {place}/current -v");
    eventually(&format!("release {number} runs: {}", manager.stderr()), || {
        last(manager) == expected
    });
}

fn serves_the_latest(program: impl FnOnce(Program) -> Program, upgrades: bool) {
    let manager = Program::release();
    let place = fs::canonicalize(manager.path("")).expect("a directory");
    (1..=4).for_each(|number| release(&place, number));
    turn_to(&place, 1);
    let socket = place.join("control").to_string_lossy().into_owned();
    let options = ["run", "--control", &socket, "--ready", "10ms", "--stop-timeout", "20"];
    let mut manager = program(manager.args(options)).args(["--", "./server", "-v"]).start();
    manager.await_ready(1);
    runs(&manager, 1);
    turn_to(&place, 2);
    assert_eq!(control(&manager.control(), "reload"), "ok");
    runs(&manager, 2);
    // A worker that dies comes back with what is there, as after a reboot.
    turn_to(&place, 3);
    eventually("the old one has gone", || children(manager.pid()).len() == 1);
    children(manager.pid())[0].signal(Signal::SIGKILL);
    runs(&manager, 3);
    manager.await_ready(1);
    turn_to(&place, 4);
    if upgrades {
        let upgraded = control(&manager.control(), "upgrade");
        assert_eq!(upgraded, "ok", "{}", manager.stderr());
        assert_eq!(control(&manager.control(), "reload"), "ok");
        runs(&manager, 4);
    }
    // The old release can go; there is nowhere to be without it.
    fs::remove_dir_all(place.join("releases/1")).expect("removed");
    assert_eq!(control(&manager.control(), "reload"), "ok", "{}", manager.stderr());
    runs(&manager, 4);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_directory_is_resolved_at_each_start() {
    let chdir = |program: Program| {
        let current = program.path("current");
        program.args(["--chdir"]).args([fs::canonicalize(current.parent().expect("a place"))
            .expect("it")
            .join("current")])
    };
    serves_the_latest(chdir, true);
}

#[test]
fn so_is_a_relative_one() {
    let chdir = |program: Program| {
        let place = fs::canonicalize(program.path("")).expect("a directory");
        program.args(["--chdir", "current"]).with(|command| {
            command.current_dir(&place).env("PWD", &place);
        })
    };
    serves_the_latest(chdir, false);
}

#[test]
fn so_is_the_one_that_the_shell_was_in() {
    let from_there = |program: Program| {
        let current = fs::canonicalize(program.path("")).expect("a directory").join("current");
        program.with(|command| {
            command.current_dir(&current).env("PWD", &current);
        })
    };
    serves_the_latest(from_there, true);
}

#[test]
fn a_directory_that_does_not_exist_is_said() {
    let mut manager =
        Program::release().args(["run", "--chdir", "/no/such", "--", "sleep", "1000"]).start();
    assert_eq!(manager.wait().code(), Some(1));
    let log = manager.stderr();
    assert!(log.contains("/no/such") && log.contains("No such file"), "{log}");
}

on_every_backend! {
    fn workers_of_a_master_may_be_elsewhere(backend: Backend) {
        let place = tempfile::tempdir().expect("a directory");
        let place = fs::canonicalize(place.path()).expect("a directory");
        let path = place.join("there");
        fs::create_dir(place.join("1")).expect("a directory");
        fs::create_dir(place.join("2")).expect("a directory");
        symlink("1", &path).expect("a link");
        let mut probe =
            Program::probe(backend, "").args(["--directory"]).args([&path]).start();
        probe.await_ready(1);
        let is_in = |name: &str| {
            let path = place.join(name).to_string_lossy().into_owned();
            probe.workers()[0].link("cwd") == Some(path)
        };
        assert!(is_in("1"));
        fs::remove_file(&path).expect("removed");
        symlink("2", &path).expect("a link");
        assert_eq!(control(&probe.control(), "reload"), "ok");
        eventually("the new one is elsewhere", || probe.workers().len() == 1);
        assert!(is_in("2"));
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn workers_of_the_same_executable_may_have_another_root(backend: Backend) {
        if !is_root("another root directory") {
            return;
        }
        // Below directories that belong to root alone.
        let place = tempfile::tempdir_in("/var/lib").expect("a directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut probe =
            Program::probe(backend, "").args(["--chroot"]).args([place.path()]).start();
        probe.await_ready(1);
        let worker = probe.workers()[0];
        let root = place.path().to_string_lossy().into_owned();
        assert_eq!(worker.link("root"), Some(root.clone()));
        assert_eq!(worker.link("cwd"), Some(root));
        let nobody = release_tests::Account::named("nobody");
        nobody.is_all_of(worker, &nobody.groups);
        assert_eq!(control(&probe.control(), "reload"), "ok");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_root_that_others_may_change_is_none(backend: Backend) {
        if !is_root("another root directory") {
            return;
        }
        let mut probe = Program::probe(backend, "").args(["--chroot", "/tmp"]).start();
        assert_eq!(probe.wait().code(), Some(1));
        assert!(probe.stderr().contains("others than root may write to it"), "{}", probe.stderr());
    }
}
