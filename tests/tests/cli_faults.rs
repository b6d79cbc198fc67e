//! `release run` when what is around it fails, or behaves as it should not.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

use nix::sys::signal::Signal;
use release_tests::{
    Installed, Program, can_inject, control, eventually, has, is_root, release_open_to_all,
};

fn run(launcher: &[&str], options: &[&str]) -> Program {
    Program::release_under(launcher)
        .args(["run", "--control", "control", "--ready", "10ms", "--stop-timeout", "1"])
        .args(options)
        .args(["--"])
}

/// The signal ends the shell, and not what it has started.
const LEAVES_A_CHILD: &str = "sleep 1000; true";

#[test]
fn what_a_worker_leaves_behind_ends_with_it() {
    let mut manager = run(&["env"], &[]).args(["sh", "-c", LEAVES_A_CHILD]).start();
    manager.await_ready(1);
    let count = |name: &str| {
        manager.processes().into_iter().filter(|it| it.command_line().starts_with(name)).count()
    };
    eventually("it has a child", || count("sleep") == 1);
    let first = manager.workers()[0];
    first.signal(Signal::SIGKILL);
    eventually("it is started again", || {
        manager.workers().first().is_some_and(|worker| *worker != first) && count("sleep") == 1
    });
    assert_eq!(control(&manager.control(), "reload"), "ok");
    eventually("the old one is gone", || (count("sh"), count("sleep")) == (1, 1));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    eventually("nothing is left", || manager.processes().is_empty());
}

#[test]
fn what_a_killed_worker_leaves_behind_ends_with_it() {
    let deaf = format!("trap '' TERM; {LEAVES_A_CHILD}");
    let mut manager = run(&["env"], &[]).args(["sh", "-c", &deaf]).start();
    manager.await_ready(1);
    eventually("it has a child", || manager.processes().len() == 3);
    assert_eq!(manager.stop(), 3, "{}", manager.stderr());
    eventually("nothing is left", || manager.processes().is_empty());
}

/// A server behind a start script without `exec`: it finishes what it does in half a second, and the
/// shell does not wait for it.
const BEHIND_A_SHELL: &str = "
import os, signal, sys, time
def finish(*_):
    time.sleep(0.5)
    open('finished', 'a').write('x')
    sys.exit()
signal.signal(signal.SIGTERM, finish if len(sys.argv) < 2 else signal.SIG_IGN)
open('serves', 'w').close()
while True:
    time.sleep(1000)
";

fn behind_a_shell(timeout: &str, argument: &str) -> Program {
    let script = format!("python3 -c \"$0\" {argument}; true");
    Program::release()
        .args(["run", "--control", "control", "--ready", "10ms", "--stop-timeout", timeout, "--"])
        .args(["sh", "-c", &script, BEHIND_A_SHELL])
}

#[test]
fn a_server_behind_a_start_script_finishes_its_work() {
    if !has("python3", "--version") {
        return;
    }
    let mut manager = behind_a_shell("20", "").start();
    manager.await_ready(1);
    let serves = manager.path("serves");
    eventually("it serves", || serves.exists());
    fs::remove_file(&serves).expect("removed");
    assert_eq!(control(&manager.control(), "reload"), "ok");
    eventually("the new one serves", || serves.exists());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    // The end of the manager is the end of them all.
    assert!(manager.processes().is_empty(), "{:?}", manager.processes());
    assert_eq!(fs::read_to_string(manager.path("finished")).ok().as_deref(), Some("xx"));
    let log = manager.stderr();
    assert_eq!(log.matches("left processes behind: they got the signal").count(), 2, "{log}");
}

/// As above, but it finishes when the file `go` is there.
const HELD: &str = "
import os, signal, sys, time
def finish(*_):
    while not os.path.exists('go'):
        time.sleep(0.01)
    open('finished', 'a').write('x')
    sys.exit()
signal.signal(signal.SIGTERM, finish)
open('serves', 'w').close()
while True:
    time.sleep(1000)
";

#[test]
fn a_server_behind_a_start_script_finishes_its_work_whatever_is_upgraded() {
    if !has("python3", "--version") {
        return;
    }
    let installed = Installed::cli();
    let options = ["--control", "control", "--ready", "10ms", "--stop-timeout", "60"];
    let server = ["--", "sh", "-c", "python3 -c \"$0\"; true", HELD];
    let mut manager = installed.program().args(["run"]).args(options).args(server).start();
    manager.await_ready(1);
    let serves = manager.path("serves");
    let ask = |order: &str| {
        eventually("the present one serves", || serves.exists());
        fs::remove_file(&serves).expect("removed");
        control(&manager.control(), order)
    };
    let servers = || {
        let all = manager.processes().into_iter();
        all.filter(|it| it.command_line().contains("python3 -c \nimport")).count()
    };
    let shells = || {
        let all = manager.processes().into_iter();
        all.filter(|it| it.command_line().starts_with("sh -c")).count()
    };
    assert_eq!(ask("reload"), "ok");
    eventually("the old one is behind nobody", || (shells(), servers()) == (1, 2));
    let real = Program::release_path();
    installed.install_script("exit 1");
    let refused = control(&manager.control(), "upgrade");
    assert!(refused.starts_with("error: "), "{refused}");
    assert_eq!(servers(), 2, "{}", manager.stderr());
    installed.install_script(&format!("exec {} \"$@\"", real.display()));
    assert_eq!(ask("upgrade"), "ok", "{}", manager.stderr());
    eventually("the new one serves", || serves.exists());
    assert_eq!(servers(), 3, "{}", manager.stderr());
    fs::write(manager.path("go"), "").expect("a file");
    eventually("both have finished", || servers() == 1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    assert_eq!(fs::read_to_string(manager.path("finished")).ok().as_deref(), Some("xxx"));
}

#[test]
fn a_server_behind_a_start_script_has_no_more_than_its_time() {
    if !has("python3", "--version") {
        return;
    }
    let mut manager = behind_a_shell("300ms", "deaf").start();
    manager.await_ready(1);
    let serves = manager.path("serves");
    eventually("it serves", || serves.exists());
    assert_eq!(manager.stop(), 3, "{}", manager.stderr());
    assert!(manager.processes().is_empty(), "{:?}", manager.processes());
}

/// Runs a command with a standard error whose pipe is full, and which nobody reads.
const UNREAD: &str = "
import fcntl, os, sys
reader, writer = os.pipe()
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
os.write(writer, b'x' * 4096)
os.set_inheritable(reader, True)
os.dup2(writer, 2)
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let launcher = ["python3", "-c", UNREAD];
    let worker = ["sh", "-c", "echo words; exec sleep 1000"];
    let mut manager = run(&launcher, &["--workers", "2"]).args(worker).start();
    manager.await_ready(2);
    assert_eq!(control(&manager.control(), "reload"), "ok");
    manager.workers()[0].signal(Signal::SIGKILL);
    assert_eq!(manager.stop(), 0);

    // Its last words neither.
    let deaf = ["sh", "-c", "trap '' TERM; sleep 1000; true"];
    let mut manager = run(&launcher, &[]).args(deaf).start();
    manager.await_ready(1);
    eventually("it has set its trap", || manager.processes().len() == 3);
    assert_eq!(manager.stop(), 3);
}

#[test]
fn variables_with_names_that_no_shell_has_are_passed_on() {
    // Some programs leave their children such as `=C:`.
    let options = ["--respawn", "never"];
    let (code, said) = run(&["env", "=C:=\\dir"], &options).args(["env"]).run();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_group_of_root_is_refused() {
    if !is_root("giving workers another group") {
        return;
    }
    let options = ["--user", "nobody", "--group", "root"];
    let (code, said) = run(&["env"], &options).args(["sleep", "1000"]).run();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("`root` has gid 0"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn an_account_that_workers_cannot_get_is_refused() {
    let (_place, copy) = release_open_to_all();
    let launcher: &[&str] = match is_root("becoming an ordinary user") {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &["env"],
    };
    let as_user = |login: &str| {
        let options = ["run", "--user", login, "--respawn", "never", "--", "true"];
        Program::command(launcher, &copy)
            .args(options)
            .with(|command| {
                command.current_dir("/");
            })
            .run()
    };
    let (code, said) = as_user("root");
    assert!(code == 1 && said.contains("only root can run workers as `"), "{said}");
    if is_root("being nobody") {
        let (code, said) = as_user("nobody");
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn a_mask_that_leaves_nothing_to_the_owner_keeps_nobody_from_its_pid_file() {
    let (place, copy) = release_open_to_all();
    let own = place.path().join("own");
    fs::create_dir(&own).expect("a directory");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("a mode");
    let masked = ["sh", "-c", "umask 777; exec \"$@\"", "sh"];
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let launcher = match is_root("becoming an ordinary user") {
        true => [&nobody[..], &masked].concat(),
        false => masked.to_vec(),
    };
    for _ in 0..2 {
        let program = Program::command(&launcher, &copy).args(["run", "--pid-file", "own/pid"]);
        let program = program.args(["--respawn", "never", "--", "true"]).with(|command| {
            command.current_dir(place.path());
        });
        let (code, said) = program.run();
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn a_program_that_the_account_cannot_reach_is_said_to_be_one() {
    if !is_root("running workers as another user") {
        return;
    }
    let program = run(&["env"], &["--user", "nobody", "--respawn", "never"]);
    let closed = program.path("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink("/bin/true", closed.join("true")).expect("a link");
    let (code, said) = program.args([closed.join("true")]).run();
    assert!(code == 1 && said.contains("user `nobody` may not execute it, or not reach"), "{said}");
    // Its files are not looked at: they may be where looking takes as long as it likes.
    let program = run(&["env"], &["--user", "nobody", "--respawn", "never"]);
    let (code, said) = program.args(["/no/such/program"]).run();
    assert!(code == 1 && said.contains("it does not exist, or the interpreter that"), "{said}");
}

#[test]
fn a_socket_that_cannot_listen_leaves_no_file() {
    if !can_inject("failing system calls") {
        return;
    }
    for (call, file) in [("1", "socket"), ("2", "control")] {
        let fault = format!("inject=listen:error=ENOMEM:when={call}");
        let launcher = ["strace", "-D", "-f", "-o", "/dev/null", "-e", &fault];
        let program = run(&launcher, &["--listen", "unix://socket"]).args(["sleep", "1000"]);
        let mut manager = program.start();
        assert_eq!(manager.wait().code(), Some(1), "{}", manager.stderr());
        let said = manager.stderr();
        assert!(said.contains(file) && said.contains("cannot listen"), "{said}");
        let left = fs::read_dir(manager.path("")).expect("its directory").flatten();
        let left: Vec<_> = left
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
            .map(|entry| entry.file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
