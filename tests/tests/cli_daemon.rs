//! `release daemon`: any program in the background.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use release_tests::{Account, Daemon, Program, Running, eventually, is_alive, is_root};

fn daemon(arguments: &[&str]) -> Program {
    Program::release().args(["daemon"]).args(arguments)
}

/// A command that is up, and the program that has started it.
fn started(program: Program) -> (Running, Daemon) {
    let mut launcher = program.start();
    assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
    assert_eq!(launcher.stderr(), "");
    let daemon = Daemon::named_in(&launcher.path("pid"));
    (launcher, daemon)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_command_is_the_daemon() {
    let script = "echo started with $1; echo complains >&2; umask; exec sleep 1000";
    let program = daemon(&["--out", "out", "--err", "err", "--pid-file", "pid", "--umask", "027"])
        .args(["--", "sh", "-c", script, "sh", "an argument"])
        .with(|command| {
            command.env("KEPT", "yes");
        });
    let (launcher, daemon) = started(program);
    let process = daemon.process();
    eventually("it runs", || process.command_line() == "sleep 1000");
    assert_eq!(text(&launcher.path("out")), "started with an argument\n0027\n");
    assert_eq!(text(&launcher.path("err")), "complains\n");
    assert_eq!(process.link("cwd").as_deref(), Some("/"));
    // No terminal, and a session in which it cannot get one.
    let [_, group, session, terminal] = process.stat()[..4] else { panic!("a stat line") };
    assert!(terminal == 0 && session == group && session != i64::from(process.0));
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(process.status(set).as_deref(), Some("0000000000000000"), "{set}");
    }
    let lock = launcher.path("pid").to_string_lossy().into_owned();
    let descriptors = process.descriptors();
    let others: Vec<_> = descriptors.iter().filter(|(number, _)| *number > 2).collect();
    assert!(others.len() == 1 && others[0].1 == lock, "{others:?}");
    let flags = text(Path::new(&format!("/proc/{}/fdinfo/{}", process.0, others[0].0)));
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
    assert_eq!(u32::from_str_radix(flags, 8).expect("octal") & 3, 0, "it could change its number");
    daemon.stop();
}

#[test]
fn a_launcher_that_ignores_the_death_of_children_is_told_the_truth() {
    let daemon =
        || Program::release_under(&["env", "--ignore-signal=CHLD"]).args(["daemon", "--wait"]);
    for _ in 0..20 {
        assert_eq!(daemon().args(["0", "--", "true"]).run(), (0, String::new()));
    }
    let (code, said) = daemon().args(["10", "--", "sh", "-c", "exit 7"]).run();
    assert!(code == 1 && said.contains("sh ended with exit status 7 before it was up"), "{said}");
}

#[test]
fn it_runs_once() {
    let start = || daemon(&["--pid-file", "pid", "--", "sleep", "1000"]);
    let (launcher, daemon) = started(start());
    let (pid, lock) = (daemon.process().0, launcher.path("pid"));
    let again = || {
        start().with(|command| {
            command.current_dir(lock.parent().expect("its directory"));
        })
    };
    let (code, said) = again().run();
    assert_eq!(code, 1, "{said}");
    let held =
        format!("cli-release: already running: {} is held by process {pid}\n", lock.display());
    assert_eq!(said, held);
    assert_eq!(text(&lock), format!("{pid}\n"));

    // What a killed one has left stops nobody.
    daemon.process().signal(Signal::SIGKILL);
    eventually("it ends", || !is_alive(pid));
    assert_eq!(again().run(), (0, String::new()));
    let next = Daemon::named_in(&lock);
    assert_ne!(next.process().0, pid);
    next.stop();
}

#[test]
fn what_goes_wrong_is_said() {
    let failures: [(&[&str], i32, &str); 14] = [
        (&["--", "no-such-program"], 127, "cannot execute no-such-program: No such file"),
        (&["--", ""], 127, "cannot execute : No such file"),
        (&["--", "./no-such-program"], 127, "/no-such-program: No such file"),
        (
            &["--", "./text"],
            126,
            "/text: it is not executable (`chmod +x` makes it so): Permission",
        ),
        (&["--", "./script"], 127, "names the interpreter /no/such/shell, which does not exist"),
        (&["--", "/"], 126, "cannot execute /: it is a directory: Permission denied"),
        (
            &["--", "./windows"],
            127,
            "names the interpreter /bin/sh\\r, which does not exist (lines",
        ),
        (&["--out", "missing/out", "--", "true"], 1, "/missing/out: there is no directory "),
        (&["--chdir", "missing", "--", "true"], 1, "cannot use missing as working directory"),
        (&["--pid-file", "missing/pid", "--", "true"], 1, "/missing, make it first: No such file"),
        (&["--user", "no-such-user", "--", "true"], 1, "there is no user `no-such-user`"),
        (
            &["--wait", "5", "--", "sh", "-c", "exit 3"],
            1,
            "sh ended with exit status 3 before it was",
        ),
        (&["--wait", "5", "--", "sh", "-c", "kill -9 $$"], 1, "sh ended with signal 9 (SIGKILL)"),
        (&["--umask", "8", "--", "true"], 2, "a mask is an octal number"),
    ];
    for (arguments, code, why) in failures {
        let program = daemon(&["--pid-file", "pid"]).args(arguments);
        let program = match arguments {
            ["--pid-file", ..] => daemon(arguments),
            _ => program,
        };
        // By another process: what a test forks meanwhile would have the script open for writing,
        // and nobody could execute it (ETXTBSY).
        let files = "echo '#!/bin/sh' > text; echo '#!/no/such/shell' > script; \
                     printf '#!/bin/sh\\r\\n' > windows; \
                     chmod 755 script windows";
        let made = Command::new("sh").args(["-c", files]).current_dir(program.path("")).status();
        assert!(made.is_ok_and(|made| made.success()));
        let mut launcher = program.start();
        let status = launcher.wait().code();
        let said = launcher.stderr();
        assert_eq!(status, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert!(!launcher.path("pid").exists(), "{arguments:?}: a pid file is left");
    }
    let (code, said) = daemon(&["--pidfile", "x", "--", "true"]).run();
    assert!(code == 2 && said.contains("--pid-file"), "{said}");
}

#[test]
fn a_command_that_ends_well_at_once_has_run() {
    let pid_file = ["--pid-file", "pid", "--"];
    assert_eq!(daemon(&pid_file).args(["true"]).run(), (0, String::new()));
    let (code, said) = daemon(&pid_file).args(["sh", "-c", "exit 3"]).run();
    assert!(code == 0 || said.contains("sh ended with exit status 3"), "{code} {said}");
    let (code, said) = daemon(&["--wait", "5", "--", "true"]).run();
    assert!(code == 1 && said.contains("ended with exit status 0 before it was up"), "{said}");
}

#[test]
fn a_command_that_lives_long_enough_is_up() {
    let (_, daemon) =
        started(daemon(&["--pid-file", "pid", "--wait", "0.3", "--", "sleep", "1000"]));
    daemon.stop();
}

#[test]
fn a_directory_that_the_account_may_not_enter_is_no_missing_program() {
    if !is_root("another user") {
        return;
    }
    let program = daemon(&["--user", "nobody", "--"]);
    let directory = program.path("closed");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::copy("/bin/true", directory.join("true")).expect("a copy");
    let (code, said) = program.args([directory.join("true")]).run();
    assert!(code == 126 && said.contains("/closed/true: Permission denied"), "{said}");
}

#[test]
fn privileges_are_given_up() {
    if !is_root("another user") {
        return;
    }
    let account = Account::with_groups();
    let script = "echo $HOME $USER $LOGNAME; exec sleep 1000";
    let program = daemon(&["--pid-file", "pid", "--out", "out", "--user", &account.name]);
    let (launcher, daemon) = started(program.args(["--", "sh", "-c", script]));
    eventually("it runs", || daemon.process().command_line() == "sleep 1000");
    account.is_all_of(daemon.process(), &account.groups);
    let name = &account.name;
    let out = text(&launcher.path("out"));
    assert!(out.ends_with(&format!(" {name} {name}\n")) && out.starts_with('/'), "{out}");
    daemon.stop();
}

/// A file of another machine, and one that is no program: a shell would run either, and call that a
/// success.
#[test]
fn what_is_no_program_is_not_given_to_a_shell() {
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    (foreign[16], foreign[18], foreign[19]) = (2, 0xff, 0xfe);
    for (name, content) in [("foreign", &foreign[..]), ("text", b"exit 0\n"), ("empty", b"")] {
        let program = daemon(&["--"]);
        let path = program.path(name);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        let (code, said) = program.args([format!("./{name}")]).run();
        assert_eq!(code, 126, "{name}: {said}");
        let why = if name == "empty" { "it is empty" } else { "it is no program for this machine" };
        assert!(said.contains(why), "{name}: {said}");
    }
}
