//! `release ctl` against the example `service`, and against what is none.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use release_core::net::{Socket, Unix};
use release_tests::{
    Backend, Process, Program, Running, Terminal, children, eventually, is_alive, is_root,
    on_every_backend,
};

/// Exit code, standard output and standard error.
fn ctl(control: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = Program::release().args(["ctl", "--control"]).args([control]).args(arguments);
    let out = program.path("stdout");
    let file = fs::File::create(&out).expect("a file for standard output");
    let mut running = program
        .with(|command| {
            command.stdout(Stdio::from(file)).env_remove("RELEASE_CONTROL");
        })
        .start();
    let code = running.wait().code().unwrap_or(-1);
    (code, fs::read_to_string(out).unwrap_or_default(), running.stderr())
}

#[track_caller]
fn done(control: &Path, arguments: &[&str]) -> String {
    let (code, out, said) = ctl(control, arguments);
    assert_eq!((code, said.as_str()), (0, ""), "{arguments:?}");
    out
}

#[track_caller]
fn fails(control: &Path, arguments: &[&str], why: &str) {
    let (code, _, said) = ctl(control, arguments);
    assert_eq!(code, 1, "{arguments:?}: {said}");
    assert!(said.contains(why) && said.lines().count() == 1, "{arguments:?}: {said}");
}

/// The lines of the table below its titles, in words.
fn rows(control: &Path) -> Vec<Vec<String>> {
    let table = done(control, &["status"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().skip(2).map(words).collect()
}

on_every_backend! {
    fn a_service_is_told_what_to_do(backend: Backend) {
        let (mut service, _) = Running::service(backend, 2, &[]);
        let control = service.control();
        let table = done(&control, &["status"]);
        let first = format!("master {}, generation 1, 2 of 2 workers ready\n", service.pid());
        assert!(table.starts_with(&first) && !table.contains('\x1b'), "{table}");
        let pids = |rows: &[Vec<String>]| rows.iter().map(|row| row[1].clone()).collect::<Vec<_>>();
        let before = rows(&control);
        let mut workers: Vec<_> = service.workers().iter().map(|worker| worker.0.to_string()).collect();
        workers.sort();
        let mut shown = pids(&before);
        shown.sort();
        assert_eq!(shown, workers);

        assert_eq!(done(&control, &["scale", "3"]), "");
        assert_eq!(rows(&control).len(), 3);
        done(&control, &["restart", &before[0][0]]);
        let after = rows(&control);
        assert!(after[0][1] != before[0][1] && after[1][1] == before[1][1], "{after:?}");
        assert_eq!(done(&control, &["--json", "reload"]), "{\"ok\":true}\n");
        let reloaded = rows(&control);
        assert!(pids(&reloaded).iter().all(|pid| !pids(&after).contains(pid)), "{reloaded:?}");
        let json: serde_json::Value =
            serde_json::from_str(&done(&control, &["status", "--json"])).expect("JSON");
        assert_eq!(json["generation"], 2);

        fails(&control, &["restart", "99"], "99");
        let (code, out, said) = ctl(&control, &["scale", "99999", "--json"]);
        assert!(code == 1 && !said.is_empty(), "{said}");
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(json["ok"], false);
        done(&control, &["stop"]);
        assert!(!is_alive(service.pid()), "it has stopped when the command is back");
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
    }
}

#[test]
fn what_is_no_service_is_said() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    fails(&path, &["status"], "there is no control socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    fails(&path, &["--timeout", "1", "status"], "no answer to `status` from");
    fails(&path, &["--timeout", "1", "watch"], "no answer to `status` from");
    drop(listener);
    fails(&path, &["status"], "the next start takes it over");
    fs::remove_file(&path).expect("it is removed");
    fs::write(&path, "").expect("a file");
    fails(&path, &["status"], "control is no socket");
    let long = place.path().join("x".repeat(200));
    fails(&long, &["status"], "the system allows 107");

    let (code, _, said) = ctl(&path, &["scale", "many"]);
    assert!(code == 2 && said.contains("many"), "{said}");
    // The options may stand behind the command, too.
    let behind = ["ctl", "status", "--timeout", "1", "--control", "/no/such/socket"];
    let (code, said) = Program::release().args(behind).run();
    assert!(code == 1 && said.contains("/no/such/socket"), "{said}");
    let (code, said) = Program::release()
        .args(["ctl", "status"])
        .with(|command| {
            command.env_remove("RELEASE_CONTROL");
        })
        .run();
    assert!(code == 2 && said.contains("--control"), "{said}");
    let (code, said) = Program::release()
        .args(["ctl", "status"])
        .with(|command| {
            command.env("RELEASE_CONTROL", "/no/such/control");
        })
        .run();
    assert!(code == 1 && said.contains("/no/such/control"), "{said}");
}

/// A service that answers the first requests with these words, and then does nothing any more.
fn answers(path: &Path, answers: &'static [&'static [u8]]) -> JoinHandle<UnixListener> {
    let _ = fs::remove_file(path);
    let address = Unix::path(path);
    let socket = Socket::unconnected(&address).and_then(|socket| socket.bind(&address));
    let listener = socket.and_then(|socket| socket.into_listening(1)).expect("a socket");
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(false).expect("a listener");
    std::thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().expect("a client");
            // Those who only look whether somebody is there ask nothing.
            let _ = client.read(&mut [0; 64]).and_then(|_| client.write_all(answer));
        }
        listener
    })
}

#[test]
fn a_hostile_service_does_not_write_to_the_terminal() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    const ANSWER: &[u8] = b"\0\0\0\x14error: \x1b[2Jdone\nok\r\x07";
    let service = answers(&path, &[ANSWER; 2]);
    for words in ["status", "reload"] {
        let (code, _, said) = ctl(&path, &[words]);
        assert_eq!((code, &*said), (1, "release: \\u{1b}[2Jdone\nok\\r\\u{7}\n"), "{words}");
    }
    drop(service.join().expect("it has answered"));
    let service = answers(&path, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    fails(&path, &["status"], "does not speak as control sockets do");
    drop(service.join().expect("it has answered"));
}

#[test]
fn a_service_that_hangs_while_it_stops_is_not_waited_for_without_end() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    // Somebody looks who it is before it is told.
    let service = answers(&path, &[b"", b"\0\0\0\x02ok"]);
    let why = format!("process {} has not stopped within 1 s", std::process::id());
    fails(&path, &["--timeout", "1", "stop"], &why);
    drop(service.join().expect("it has answered"));
}

#[test]
fn who_may_not_is_told() {
    if !is_root("asking as another user") {
        return;
    }
    let (service, _) = Running::service(Backend::Tokio, 1, &[]);
    let control = service.control();
    let open = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(control.parent().expect("a directory"), mode).expect("a mode");
    };
    let ask = || {
        let (_place, copy) = release_tests::release_open_to_all();
        let launcher = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let program = Program::command(&launcher, &copy).args(["ctl", "--control"]);
        program
            .args([&control])
            .args(["status"])
            .with(|command| {
                command.current_dir("/");
            })
            .run()
    };
    open(0o755);
    let (code, said) = ask();
    assert!(code == 1 && said.contains("be root or the account that it belongs to"), "{said}");
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).expect("a mode");
    let (code, said) = ask();
    assert!(code == 1 && said.contains("does not admit this user"), "{said}");
}

#[test]
fn a_health_check_can_use_the_status() {
    let manager = Program::release()
        .args(["run", "--workers", "2", "--ready", "notify", "--control", "control"])
        .args(["--", "sleep", "1000"])
        .start();
    let control = manager.control();
    eventually("none of its workers is ready", || ctl(&control, &["status"]).0 == 3);
    let (code, out, said) = ctl(&control, &["status", "--json"]);
    assert_eq!((code, &*said), (3, "release: no worker is ready\n"));
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["workers"].as_array().map(Vec::len), Some(2), "{out}");
}

#[test]
fn a_stop_that_had_to_kill_says_so() {
    for (trap, expected) in [("", 0), ("trap '' TERM;", 3)] {
        let script = format!("{trap} exec sleep 1000");
        let mut manager = Program::release()
            .args(["run", "--ready", "50ms", "--stop-timeout", "300ms", "--control", "control"])
            .args(["--", "sh", "-c", &script])
            .start();
        let control = manager.control();
        eventually("its worker is ready", || ctl(&control, &["status"]).0 == 0);
        let (code, out, said) = ctl(&control, &["--json", "stop"]);
        assert_eq!(code, expected, "{said}");
        let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(json["ok"], expected == 0, "{out}");
        let is_said = said.contains("1 process did not stop in time and had to be killed");
        assert_eq!(is_said, expected == 3, "{said}");
        assert_eq!(manager.wait().code(), Some(expected), "{}", manager.stderr());
    }
}

/// Answers every request with `ok`, as whoever starts it.
const YES: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen()
while True:
    connection, _ = listener.accept()
    if connection.recv(64):
        connection.sendall(b"\0\0\0\2ok")
"#;

#[test]
fn the_answer_of_a_stranger_is_not_believed() {
    if !is_root("being somebody else") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let control = place.path().join("control");
    let stranger =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c"];
    let _stranger = Program::command(&stranger, Path::new(YES))
        .args([&control])
        .with(|command| {
            command.current_dir("/");
        })
        .start();
    eventually("it listens", || ctl(&control, &["reload"]).2.contains("user 65534"));
    for request in [&["reload"][..], &["status"], &["stop"], &["--owner", "1", "reload"]] {
        fails(&control, request, "neither root nor this user");
    }
    done(&control, &["--owner", "65534", "reload"]);
    let (code, _, said) = ctl(&control, &["--owner", "no-such-account", "reload"]);
    assert!(code == 2 && said.contains("there is no such account"), "{said}");
}

#[test]
fn the_lines_of_an_error_stay_lines() {
    let program = Program::release().args(["run", "--control", "control", "--config", "run.conf"]);
    let config = program.path("run.conf");
    fs::write(&config, "command = [\"sleep\", \"1000\"]\nready = 0\n").expect("a file");
    let manager = program.start();
    let control = manager.control();
    eventually("its worker is ready", || ctl(&control, &["status"]).0 == 0);
    fs::write(&config, "command = [\"sleep\", \"1000\"]\nworkers = \"\x1bmany\"\n")
        .expect("a file");
    let (code, _, said) = ctl(&control, &["reload"]);
    let lines: Vec<_> = said.lines().collect();
    assert!(code == 1 && lines.len() > 2 && !said.contains("\\n"), "{said}");
    assert!(
        lines.iter().any(|line| line.trim_start_matches([' ', '|', '0', '2']).starts_with('^')),
        "{said}"
    );
    assert!(!said.contains('\x1b'), "{said}");
}

#[test]
fn a_time_has_a_unit_or_is_in_seconds() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let _listener = UnixListener::bind(&path).expect("a socket");
    for (time, seconds) in [("200ms", "0.2"), ("1s", "1"), ("1", "1")] {
        fails(&path, &["--timeout", time, "status"], &format!("within {seconds} s"));
    }
}

/// Runs a command on a terminal until it has shown its last line twice, ends it by a key or a signal,
/// and prints what it has left: its exit status, its last output, and whether the terminal is as before.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, signal, sys, termios
end, command = sys.argv[1], sys.argv[2:]
terminal, other = pty.openpty()
before, shown = termios.tcgetattr(other), b""
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(other, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(other, number)
    os.execvp(command[0], command)
while shown.count(b" quits") < 2:
    shown += os.read(terminal, 4096)
if end == "TERM":
    os.kill(pid, signal.SIGTERM)
else:
    os.write(terminal, end.encode())
_, status = os.waitpid(pid, 0)
after = termios.tcgetattr(other)
os.close(other)
try:
    while data := os.read(terminal, 4096):
        shown += data
except OSError:
    pass
sys.stderr.write(f"{os.waitstatus_to_exitcode(status)} {before == after}\n")
sys.stderr.write(repr(shown[-20:]) + "\n")
sys.stderr.write(shown.decode())
"#;

#[test]
fn watching_leaves_the_terminal_as_it_was() {
    let (service, _) = Running::service(Backend::Smol, 2, &[]);
    let control = service.control();
    for end in ["q", "\x03", "TERM"] {
        let launcher = ["python3", "-c", ON_A_TERMINAL, end];
        let mut watch = Program::release_under(&launcher)
            .args(["ctl", "--control"])
            .args([&control])
            .args(["watch"])
            .start();
        watch.wait();
        let said = watch.stderr();
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("0 True"), "{end:?}: {said}");
        let last = lines.next().unwrap_or_default();
        assert!(last.ends_with(r"\x1b[?25h\x1b[?1049l'"), "{end:?}: {last}");
        let first = format!("master {}, generation 1, 2 of 2 workers ready", service.pid());
        assert!(said.contains(&first) && said.contains("\x1b[32mready\x1b[0m"), "{end:?}: {said}");
    }
}

#[test]
fn watching_a_service_that_hangs_ends_at_once() {
    let (service, _) = Running::service(Backend::Smol, 2, &[]);
    for keys in ["q", "\x03"] {
        let mut terminal = Terminal::new();
        let program = Program::release_under(&Terminal::LAUNCHER).args(["ctl", "--control"]);
        let program = program.args([&service.control()]).args(["--timeout", "1h", "watch"]);
        let mut watch = terminal.start(program);
        terminal.shows("ready");
        service.signal(Signal::SIGSTOP);
        let is_stopped = || service.process().status("State").is_some_and(|it| it.starts_with('T'));
        eventually("it is stopped", is_stopped);
        let asks = |process: Process| {
            process.descriptors().iter().any(|(_, path)| path.starts_with("socket:"))
        };
        let watchers = || [vec![watch.process()], children(watch.pid())].concat();
        eventually("it is asked", || watchers().into_iter().any(asks));
        terminal.type_in(keys);
        let status = watch.wait();
        service.signal(Signal::SIGCONT);
        assert_eq!(status.code(), Some(0), "{keys:?}: {}", terminal.text());
    }
}

#[test]
fn a_change_that_takes_time_shows_its_progress_on_a_terminal() {
    let options = ["--workers", "2", "--ready", "fd:3"];
    let line = "while [ -e slow ]; do sleep 0.02; done; echo >&3; exec sleep 1000";
    let mut manager = Program::manager_of_shell(&options, line).start();
    manager.await_ready(2);
    fs::write(manager.path("slow"), "").expect("a file");
    let program = Program::release().args(["ctl", "--control"]).args([&manager.control()]);
    let mut terminal = Terminal::new();
    let mut running = terminal.start(program.args(["reload"]));
    terminal.shows("reload: 0 of 2 workers replaced");
    fs::remove_file(manager.path("slow")).expect("it is there");
    assert_eq!(running.wait().code(), Some(0));
    eventually("the line is cleared", || terminal.text().ends_with("\r\u{1b}[K"));
    // Into a pipe it says nothing.
    assert_eq!(ctl(&manager.control(), &["reload"]), (0, String::new(), String::new()));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_small_terminal_shows_the_header() {
    let (service, _) = Running::service(Backend::Smol, 9, &[]);
    let sized = ON_A_TERMINAL.replace(
        "before, shown",
        "fcntl.ioctl(other, termios.TIOCSWINSZ, bytes([6, 0, 50, 0, 0, 0, 0, 0]))\nbefore, shown",
    );
    let launcher = ["python3", "-c", &sized, "q"];
    let mut watch = Program::release_under(&launcher)
        .args(["ctl", "--control"])
        .args([service.control()])
        .args(["watch"])
        .start();
    watch.wait();
    let said = watch.stderr();
    let page = said.split("\x1b[H").nth(1).and_then(|page| page.split("\x1b[J").next());
    let page = page.expect("a page").replace("\x1b[K", "");
    let lines: Vec<_> = page.lines().collect();
    assert_eq!(lines.len(), 6, "{page:?}");
    assert!(lines[0].starts_with(&format!("master {}", service.pid())), "{page:?}");
    assert!(lines[1].contains("PID") && lines[5].contains("q quits, 6 more"), "{page:?}");
    for line in lines {
        let length =
            line.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[32m", "").len();
        assert!(length <= 50, "{length}: {line:?}");
    }
}

#[test]
fn watching_without_a_terminal_goes_on_until_a_signal() {
    let (service, _) = Running::service(Backend::Smol, 1, &[]);
    let control = service.control();
    let program = Program::release().args(["ctl", "--json", "--control"]).args([&control]);
    let out = program.path("stdout");
    let file = fs::File::create(&out).expect("a file");
    let mut watch = program
        .args(["watch"])
        .with(|command| {
            command.stdout(Stdio::from(file));
        })
        .start();
    let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
    eventually("it shows the status again and again", || lines() >= 2);
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.wait().code(), Some(0), "{}", watch.stderr());
    let shown = fs::read_to_string(&out).expect("it was shown");
    for line in shown.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("one status in each line");
    }
}

#[test]
fn a_reader_that_has_stopped_does_not_keep_watching_from_its_end() {
    let (service, _) = Running::service(Backend::Smol, 1, &[]);
    let (_reader, mut writer) = io::pipe().expect("a pipe");
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a size");
    writer.write_all(&vec![b'x'; usize::try_from(size).expect("a size")]).expect("it is full");
    let mut watch = Program::release()
        .args(["ctl", "--control"])
        .args([service.control(), "watch".into()])
        .with(|command| {
            command.stdout(Stdio::from(writer));
        })
        .start();
    eventually("it waits for signals", || {
        watch.process().status("SigBlk").is_some_and(|blocked| blocked.ends_with("4007"))
    });
    assert_eq!(watch.stop(), 0, "{}", watch.stderr());
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let (mut service, _) = Running::service(Backend::Tokio, 1, &[]);
    for words in [&["status"][..], &["--json", "reload"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let program = Program::release().args(["ctl", "--control"]).args([service.control()]);
        let program = program.args(words).with(|command| {
            command.stdout(Stdio::from(full));
        });
        let (code, said) = program.run();
        assert_eq!(code, 1, "{words:?}: {said}");
        assert!(said.contains("No space left on device"), "{words:?}: {said}");
    }
    assert_eq!(service.stop(), 0, "{}", service.stderr());
}
