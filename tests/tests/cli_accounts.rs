//! What programs of another account find: its environment, and nothing of whoever has started them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use release_tests::{Account, Daemon, Program, Running, children, eventually, has, is_root};

type Variables = BTreeMap<String, String>;

/// What root's session has.
const SESSION: [(&str, &str); 8] = [
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/bin/root-shell"),
    ("SSH_AUTH_SOCK", "/tmp/agent"),
    ("SUDO_USER", "somebody"),
    ("XDG_RUNTIME_DIR", "/run/user/0"),
    ("MODE", "production"),
];

fn from_a_session(program: Program, arguments: &[&str]) -> Program {
    program.args(arguments).with(|command| {
        command.envs(SESSION);
    })
}

fn run(options: &[&str], command: &[&str]) -> Running {
    let options = [&["run", "--control", "control", "--ready", "10ms"], options, &["--"]].concat();
    from_a_session(Program::release(), &[options, command.to_vec()].concat()).start()
}

/// The environment of a process that is the program.
fn of(process: release_tests::Process) -> Variables {
    let mut found = Vec::new();
    eventually("it runs its program", || {
        found = process.environment();
        process.command_line().starts_with("sleep")
    });
    let pair = |entry: &String| {
        let (name, value) = entry.split_once('=').expect("a variable");
        (name.to_owned(), value.to_owned())
    };
    found.iter().map(pair).collect()
}

fn of_a_worker(options: &[&str]) -> Variables {
    let mut manager = run(options, &["sleep", "1000"]);
    manager.await_ready(1);
    let variables = of(children(manager.pid())[0]);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    variables
}

fn has_those_of(variables: &Variables, account: &[(&str, Option<&str>)]) {
    for (name, value) in account {
        assert_eq!(variables.get(*name).map(String::as_str), *value, "{name}: {variables:?}");
    }
}

fn nobody() -> Vec<(&'static str, Option<&'static str>)> {
    let line = fs::read_to_string("/etc/passwd").expect("accounts");
    let line = line.lines().find(|line| line.starts_with("nobody:")).expect("nobody").to_owned();
    let mut words = line.leak().rsplit(':');
    let (shell, home) = (words.next(), words.next());
    let name = Some("nobody");
    vec![("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", shell)]
}

#[test]
fn another_account_has_its_own_environment() {
    if !is_root("other accounts") {
        return;
    }
    let variables = of_a_worker(&["--user", "nobody"]);
    has_those_of(&variables, &nobody());
    let rest = [("SSH_AUTH_SOCK", None), ("SUDO_USER", None), ("XDG_RUNTIME_DIR", None)];
    has_those_of(&variables, &rest);
    has_those_of(&variables, &[("MODE", Some("production"))]);
    // Who is the same user is in the same session.
    let variables = of_a_worker(&[]);
    has_those_of(&variables, &[("HOME", Some("/root")), ("SSH_AUTH_SOCK", Some("/tmp/agent"))]);
}

#[test]
fn variables_are_named_one_by_one_or_in_a_file() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("variables");
    fs::write(&file, "# Of the service\nA=file\nB=of the file\nSUDO_USER\n").expect("written");
    let file = file.to_str().expect("a path");
    let all = ["--env-clear", "--env-file", file, "--env", "A=option", "--env", "MODE"];
    let variables = of_a_worker(&all);
    let told =
        [("A", "option"), ("B", "of the file"), ("MODE", "production"), ("SUDO_USER", "somebody")];
    has_those_of(&variables, &told.map(|(name, value)| (name, Some(value))));
    has_those_of(&variables, &[("HOME", None), ("PATH", None), ("SSH_AUTH_SOCK", None)]);
    let named: Vec<_> = variables.keys().filter(|name| !name.starts_with("EINHORN_")).collect();
    assert_eq!(named.len(), 4, "{named:?}");
    if is_root("other accounts") {
        let variables = of_a_worker(&[&["--user", "nobody"], &all[..]].concat());
        has_those_of(&variables, &nobody());
    }
}

#[test]
fn a_file_of_variables_is_read_again() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("variables");
    fs::write(&file, "A=1\n").expect("written");
    let mut manager = run(&["--env-file", file.to_str().expect("a path")], &["sleep", "1000"]);
    manager.await_ready(1);
    let value = || of(children(manager.pid())[0]).get("A").cloned();
    assert_eq!(value().as_deref(), Some("1"));
    fs::write(&file, "A=2\n").expect("written");
    assert_eq!(release_tests::control(&manager.control(), "reload"), "ok");
    eventually("the old one has gone", || children(manager.pid()).len() == 1);
    assert_eq!(value().as_deref(), Some("2"));
    fs::write(&file, "A=2\nexport B=1\n").expect("written");
    let refused = release_tests::control(&manager.control(), "reload");
    assert!(refused.contains("variables:2: a variable is written NAME=VALUE"), "{refused}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_daemon_has_the_same() {
    if !is_root("other accounts") {
        return;
    }
    let options = ["daemon", "--pid-file", "pid", "--user", "nobody", "--env", "SUDO_USER"];
    let program =
        from_a_session(Program::release(), &[&options[..], &["--", "sleep", "1000"]].concat());
    let mut launcher = program.start();
    assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
    let daemon = Daemon::named_in(&launcher.path("pid"));
    let variables = of(daemon.process());
    has_those_of(&variables, &nobody());
    has_those_of(&variables, &[("SUDO_USER", Some("somebody")), ("SSH_AUTH_SOCK", None)]);
}

#[test]
fn numbers_need_no_account() {
    if !is_root("other accounts") {
        return;
    }
    let numbers = |user: &str, (uid, gid): (u32, u32)| {
        let mut manager = run(&["--user", user], &["sleep", "1000"]);
        manager.await_ready(1);
        let worker = children(manager.pid())[0];
        let variables = of(worker);
        Account { name: user.to_owned(), uid, gid, groups: vec![gid] }.is_all_of(worker, &[gid]);
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
        variables
    };
    let variables = numbers("54321:54322", (54_321, 54_322));
    has_those_of(&variables, &[("HOME", Some("/")), ("USER", None), ("LOGNAME", None)]);
    numbers("54321", (54_321, 54_321));
    has_those_of(&numbers("65534", (65_534, 65_534)), &nobody());
    for (wrong, why) in [
        ("0", "uid 0 or gid 0"),
        ("1000:0", "uid 0 or gid 0"),
        ("1000:", "there is no user"),
        ("01000", "there is no user"),
        ("1000:1000:1000", "there is no user"),
        ("4294967295", "there is no user"),
    ] {
        let mut manager = run(&["--user", wrong], &["sleep", "1000"]);
        assert_eq!(manager.wait().code(), Some(1), "{wrong}");
        assert!(manager.stderr().contains(why), "{wrong}: {}", manager.stderr());
    }
}

/// Nothing can be written, but in the directory of the test.
const READ_ONLY: &str = "mount -t tmpfs -o ro none /run && exec \"$@\"";

#[test]
fn a_read_only_file_system_is_no_reason_not_to_hear_a_worker() {
    if !is_root("a file system of its own") || !has("/usr/bin/python3", "--version") {
        return;
    }
    const SAYS: &str = "
import os, socket, time
name = os.environ['NOTIFY_SOCKET']
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
    notices.connect(name.replace('@', chr(0), 1))
    notices.send(b'READY=1')
time.sleep(1000)
";
    let launcher = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"];
    let options = ["run", "--control", "control", "--ready", "notify", "--user", "nobody", "--"];
    let mut manager = Program::release_under(&launcher)
        .args([&options[..], &["/usr/bin/python3", "-c", SAYS]].concat())
        .with(|command| {
            command.env("TMPDIR", "/run");
        })
        .start();
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// Runs a command with a secret in its session keyring.
const WITH_A_KEY: &str = "
import ctypes, os, platform, sys
call = ctypes.CDLL(None, use_errno=True).syscall
add, ctl = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]
if sys.argv[1] == 'look':
    # KEYCTL_SEARCH in the session keyring.
    found = call(ctl, 10, -3, b'user', b'release-test', 0)
    print('found' if found > 0 else 'no key', flush=True)
    import time
    time.sleep(1000)
call(ctl, 1, None)
if call(add, b'user', b'release-test', b'secret', 6, -3) < 0:
    sys.exit('no keys here')
# Whoever has the keyring may have the key.
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_worker_has_no_keys_of_root_s() {
    if !is_root("other accounts") || !has("/usr/bin/python3", "--version") {
        return;
    }
    let program =
        Program::command(&["/usr/bin/python3", "-c", WITH_A_KEY], &Program::release_path());
    let options = ["run", "--control", "control", "--ready", "500ms", "--user", "nobody", "--"];
    let output = fs::File::create(program.path("output")).expect("a file");
    let mut manager = program
        .args([&options[..], &["/usr/bin/python3", "-c", WITH_A_KEY, "look"]].concat())
        .with(|command| {
            command.stdout(output);
        })
        .start();
    let said = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let output = manager.path("output");
    eventually("the worker has looked, or there are no keys", || {
        said(&output).contains("key")
            || said(&output).contains("found")
            || manager.stderr().contains("no keys")
    });
    if manager.stderr().contains("no keys here") {
        eprintln!("skipped: this kernel has no keys");
        manager.wait();
        return;
    }
    assert!(said(&output).contains("no key"), "{}", said(&output));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
