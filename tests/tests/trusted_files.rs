//! Root relies on no file that somebody else can write or replace. The same on every backend.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use release_tests::{Backend, Program, Running, control, free_port, is_root};

/// Who everybody is that is nobody in particular.
const OTHER: u32 = 65534;

fn give_away(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    chown(path, Some(OTHER), Some(OTHER)).expect("another owner");
}

/// `release` in a directory that is another user's.
fn in_a_directory_of_another(arguments: &[&str]) -> Program {
    let program = Program::release().args(arguments);
    give_away(&program.path("."), 0o755);
    program
}

#[track_caller]
fn refused(program: Program, what: &str, why: &str) -> Running {
    let mut running = program.start();
    let (code, log) = (running.wait().code(), running.stderr());
    assert!(code == Some(1) && log.contains(what) && log.contains(why), "{code:?}: {log}");
    running
}

const OWNER: &str = "belongs to user number 65534, not to root";

#[test]
fn in_a_directory_of_somebody_else_nothing_is_made() {
    if !is_root("giving directories away") {
        return;
    }
    let job = ["--", "sleep", "1000"];
    for (options, what) in [
        (["run", "--pid-file", "pid"], "the lock file "),
        (["run", "--control", "control"], "cannot make the control socket "),
        (["daemon", "--pid-file", "pid"], "the lock file "),
        (["daemon", "--out", "log"], "the log file "),
        (["daemon", "--err", "log"], "the log file "),
    ] {
        let program = in_a_directory_of_another(&[&options[..], &job].concat());
        let path = program.path(options[2]);
        let _directory = refused(program, what, OWNER);
        assert!(!path.exists(), "{options:?}");
    }
    let service = Program::new(Backend::Tokio, "service").args(["--lock-file", "lock"]);
    give_away(&service.path("."), 0o755);
    refused(service.listen(free_port(), 1), "the lock file ", OWNER);
}

#[test]
fn a_file_of_somebody_else_is_not_obeyed() {
    if !is_root("giving files away") {
        return;
    }
    for (mode, owner, why) in [
        (0o644, OTHER, "belongs to user number 65534"),
        (0o666, 0, "everybody can write to it"),
        (0o664, 0, "group number 65534 can write to it"),
    ] {
        for (name, text, options) in [
            ("conf", "command = [\"true\"]\n", &["run", "--config", "conf"][..]),
            ("vars", "A=1\n", &["run", "--env-file", "vars", "--", "true"]),
            ("pid", "1\n", &["run", "--pid-file", "pid", "--", "true"]),
        ] {
            let program = Program::release().args(options);
            let path = program.path(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            chown(&path, Some(owner), Some(OTHER)).expect("another owner");
            let _directory = refused(program, name, why);
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        }
    }
}

#[test]
fn a_configuration_that_becomes_somebody_else_s_is_not_obeyed_at_a_reload() {
    if !is_root("giving files away") {
        return;
    }
    let program = Program::release().args([
        "run",
        "--control",
        "control",
        "--ready",
        "0",
        "--config",
        "conf",
    ]);
    let path = program.path("conf");
    fs::write(&path, "command = [\"sleep\", \"1000\"]\n").expect("a file");
    let mut manager = program.start();
    manager.await_ready(1);
    give_away(&path, 0o644);
    let answer = control(&manager.control(), "reload");
    assert!(answer.contains("belongs to user number 65534"), "{answer}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn somebody_who_is_not_root_uses_what_is_their_own() {
    if !is_root("becoming somebody else") {
        return;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let (place, release) = release_tests::release_open_to_all();
    let program = Program::command(&nobody, &release)
        .args(["run", "--pid-file", "pid", "--control", "control", "--ready", "0", "--"])
        .args(["sleep", "1000"]);
    give_away(&program.path("."), 0o755);
    let mut manager = program.start();
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    drop(place);
}
