//! What workers of `release run` say at their `NOTIFY_SOCKET` beside that they are ready.

use std::fmt::Write as _;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Program, Running, control, eventually, is_root, release_open_to_all, try_control,
};
use serde_json::Value;

/// The start of every worker's program; `say` sends a message, `told` waits for a file.
const BEGIN: &str = "
import os, signal, socket, sys, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text):
    notify.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])
def told(name):
    while not os.path.exists(name):
        time.sleep(0.01)
def wait():
    while True:
        signal.pause()
";

fn run(options: &[&str], program: &str) -> Program {
    Program::release()
        .args(["run", "--control", "control", "--ready", "notify"])
        .args(options)
        .args(["--", "/usr/bin/python3", "-c"])
        .args([format!("{BEGIN}{program}")])
}

fn tell(manager: &Running, file: &str) {
    std::fs::write(manager.path(file), "").expect("a file");
}

/// What the control socket says of the first worker.
fn worker(manager: &Running) -> Value {
    let status = try_control(&manager.control(), "status").unwrap_or_default();
    let status: Value = serde_json::from_str(&status).unwrap_or_default();
    status["workers"][0].clone()
}

#[track_caller]
fn becomes(manager: &Running, key: &str, wanted: &str) {
    eventually(&format!("{key} is {wanted}; log: {}", manager.stderr()), || {
        worker(manager)[key] == wanted
    });
}

fn ctl(manager: &Running, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(Program::release_path());
    command.args(["ctl", "--control"]).arg(manager.control()).args(arguments);
    String::from_utf8(command.output().expect("release ctl").stdout).expect("UTF-8")
}

#[test]
fn sockets_are_elsewhere_where_nothing_can_be_written() {
    let (place, copy) = release_open_to_all();
    let ready = |launcher: &[&str]| {
        let program = Program::command(launcher, &copy).args(["run", "--ready", "notify"]);
        let program = program.args(["--respawn", "never", "--", "/usr/bin/python3", "-c"]);
        let program = program.args([format!("{BEGIN}say('READY=1')")]).with(|command| {
            command.current_dir(place.path());
        });
        let (code, said) = program.run();
        assert_eq!(code, 0, "{said}");
    };
    // An environment that another user has left.
    let stale = ["env", "XDG_RUNTIME_DIR=/proc/1"];
    if !is_root("a system that is read-only") {
        return ready(&stale);
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    ready(&[&nobody[..], &stale].concat());
    let read_only = "mount --bind /run /run && mount -o remount,ro,bind /run && exec \"$@\"";
    ready(&["unshare", "--mount", "sh", "-c", read_only, "sh"]);
}

#[test]
fn what_a_worker_says_of_itself_is_in_the_status() {
    let program = "
say('STATUS=loading \\x1b[2J 3 of 7')
told('go')
say('STATUS=' + 'x' * 3000 + '\\nREADY=1')
wait()
";
    let mut manager = run(&[], program).start();
    becomes(&manager, "status_text", "loading  [2J 3 of 7");
    assert_eq!(worker(&manager)["state"], "starting");
    assert!(ctl(&manager, &["status"]).contains("  loading  [2J 3 of 7\n"));
    tell(&manager, "go");
    becomes(&manager, "state", "ready");
    becomes(&manager, "status_text", &"x".repeat(1024));
    assert!(ctl(&manager, &["status"]).ends_with(&format!("  {}...\n", "x".repeat(60))));
    assert!(ctl(&manager, &["status", "--json"]).contains(&"x".repeat(1024)));

    // From a process that is not the worker's.
    let environment = manager.workers()[0].environment();
    let socket = environment.iter().find_map(|entry| entry.strip_prefix("NOTIFY_SOCKET="));
    let stranger = UnixDatagram::unbound().expect("a socket");
    let forged = b"STATUS=forged\nSTOPPING=1\nWATCHDOG=trigger";
    stranger.send_to(forged, socket.expect("a path")).expect("it is root's, or ours");
    thread::sleep(Duration::from_millis(1200));
    let after = worker(&manager);
    assert!(after["state"] == "ready" && after["status_text"] != "forged", "{after}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_start_that_needs_more_time_gets_it_up_to_a_limit() {
    let program = "
say('EXTEND_TIMEOUT_USEC=many')
say('EXTEND_TIMEOUT_USEC=-1')
say('EXTEND_TIMEOUT_USEC=6000000')
time.sleep(2)
say('READY=1')
told('again')
while True:
    say('EXTEND_TIMEOUT_USEC=99999999999')
    time.sleep(0.05)
";
    let mut manager = run(&["--start-timeout", "600ms"], program).start();
    manager.await_ready(1);
    let log = manager.stderr();
    assert!(log.contains("needs more time") && !log.contains("killed"), "{log}");
    assert_eq!(log.matches("not to be understood").count(), 1, "{log}");
    assert!(log.contains("`EXTEND_TIMEOUT_USEC=many`"), "{log}");

    let forever = "
while True:
    say('EXTEND_TIMEOUT_USEC=99999999999')
    time.sleep(0.05)
";
    let (code, log) = run(&["--start-timeout", "300ms", "--respawn", "never"], forever).run();
    assert!(code == 1 && log.contains("not ready within 3s"), "{log}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_stop_that_needs_more_time_gets_it_and_systemd_hears_of_it() {
    let program = "
def stop(*_):
    say('EXTEND_TIMEOUT_USEC=5000000')
    time.sleep(2)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
say('READY=1')
wait()
";
    let program = run(&["--stop-timeout", "600ms"], program);
    let path = program.path("systemd");
    let systemd = UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(release_tests::DEADLINE)).expect("a time limit");
    let mut manager = program
        .with(|command| {
            command.env("NOTIFY_SOCKET", path);
        })
        .start();
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    let mut said = String::new();
    while !said.contains("STOPPING=1\nEXTEND_TIMEOUT_USEC=5600000\nEXTEND_TIMEOUT_USEC=") {
        let mut bytes = [0; 4096];
        let length = systemd.recv(&mut bytes).expect("a message");
        let _ = writeln!(said, "{}", String::from_utf8_lossy(&bytes[..length]));
    }
    let last = said.trim_end().rsplit('=').next().and_then(|time| time.parse::<u32>().ok());
    assert!(last.is_some_and(|micros| (9_000_000..=10_000_000).contains(&micros)), "{said}");
}

#[test]
fn a_stop_does_not_last_for_ever_whatever_a_worker_says() {
    let program = "
def stop(*_):
    while True:
        say('EXTEND_TIMEOUT_USEC=99999999999')
        time.sleep(0.05)
signal.signal(signal.SIGTERM, stop)
say('READY=1')
wait()
";
    let mut manager = run(&["--stop-timeout", "200ms"], program).start();
    manager.await_ready(1);
    let begun = Instant::now();
    assert_eq!(manager.stop(), 3, "{}", manager.stderr());
    let time = begun.elapsed();
    assert!(time > Duration::from_millis(1900) && time < Duration::from_secs(6), "{time:?}");
}

#[test]
fn a_worker_that_ends_of_itself_is_told_apart() {
    let program = "
say('READY=1')
told('end')
os.remove('end')
say('STOPPING=1')
told('now')
os.remove('now')
";
    let mut manager = run(&[], program).start();
    manager.await_ready(1);
    let first = worker(&manager)["pid"].clone();
    tell(&manager, "end");
    becomes(&manager, "state", "stopping");
    tell(&manager, "now");
    eventually("another one is ready", || {
        let worker = worker(&manager);
        worker["state"] == "ready" && worker["pid"] != first
    });
    assert_eq!(worker(&manager)["last_exit"], "exit status 0");
    assert!(manager.stderr().contains("stops of itself"), "{}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_worker_that_is_silent_is_replaced_and_one_that_says_so_at_once() {
    let program = "
assert os.environ['WATCHDOG_USEC'] == '1500000', os.environ['WATCHDOG_USEC']
assert os.environ['WATCHDOG_PID'] == str(os.getpid()), os.environ['WATCHDOG_PID']
say('READY=1')
while not os.path.exists('silent'):
    if os.path.exists('trigger'):
        os.remove('trigger')
        say('WATCHDOG=trigger')
    say('WATCHDOG=1')
    time.sleep(0.1)
os.remove('silent')
wait()
";
    let mut manager = run(&["--watchdog", "1500ms"], program).start();
    manager.await_ready(1);
    // Longer than that, while it speaks, and while the manager does not hear it.
    manager.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(2000));
    manager.signal(Signal::SIGCONT);
    manager.await_ready(1);
    thread::sleep(Duration::from_millis(500));
    // And while neither gets on, as in a container that is paused.
    let worker = manager.workers()[0];
    let both = |signal| [manager.process(), worker].iter().for_each(|it| it.signal(signal));
    both(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(2000));
    manager.signal(Signal::SIGCONT);
    for _ in 0..3 {
        assert_eq!(control(&manager.control(), "ping"), "pong");
    }
    both(Signal::SIGCONT);
    thread::sleep(Duration::from_millis(500));
    assert!(!manager.stderr().contains("killed"), "{}", manager.stderr());

    tell(&manager, "silent");
    becomes(&manager, "last_exit", "killed: hung: no answer to the heartbeat for 1.5s");
    assert!(manager.stderr().contains("reason=hung: no answer to the heartbeat for 1.5s"));
    manager.await_ready(1);
    let before = Instant::now();
    tell(&manager, "trigger");
    becomes(&manager, "last_exit", "killed: hung: it says so itself");
    assert!(before.elapsed() < Duration::from_millis(1500), "{:?}", before.elapsed());
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_flood_of_words_costs_its_sender() {
    let program = "
say('READY=1')
number = 0
while True:
    number += 1
    say('STATUS=%d\\nEXTEND_TIMEOUT_USEC=%d\\nEXTEND_TIMEOUT_USEC=x%d' % (number, number, number))
    say('x' * 8000)
    say('READY=1\\nSTATUS=' + 'y' * (number % 2000))
";
    let mut manager = run(&["--workers", "4"], program).start();
    manager.await_ready(4);
    let process = manager.process();
    let (memory, ticks) = (process.resident_kib(), process.ticks());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(control(&manager.control(), "ping"), "pong");
        thread::sleep(Duration::from_millis(20));
    }
    let (grown, used) = (process.resident_kib().saturating_sub(memory), process.ticks() - ticks);
    assert!(grown < 4096, "{grown} KiB more");
    assert!(used < 200, "{used} ticks of 300");
    let log = manager.stderr();
    assert_eq!(log.matches("not to be understood").count(), 4, "{log}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// Sockets that wait for their peer when they are closed, which the master is the last to do.
const LINGERING: &str = "
server = socket.create_server(('127.0.0.1', 0))
def lingering():
    sender = socket.create_connection(server.getsockname())
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\4\\0\\0')
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(65536))
    except BlockingIOError:
        return sender, server.accept()[0]
def pass_on(sender, text, *there):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, sender.fileno().to_bytes(4, sys.byteorder))
    try:
        there[0].sendmsg([text], [rights], 0, *there[1:])
        sender.close()
    except PermissionError:
        # To close it here would take as long.
        there[0].sendmsg([text], [], 0, *there[1:])
        kept.append(sender)
kept = []
def hidden():
    sender, receiver = lingering()
    inner, outer = socket.socketpair()
    pass_on(sender, b'x', outer)
    return inner, outer, receiver
master = os.getppid()
";

#[test]
fn descriptors_that_come_along_neither_hold_the_master_up_nor_spoil_the_message() {
    let program = "
sender, receiver = lingering()
os.kill(master, signal.SIGSTOP)
pass_on(sender, b'READY=1', notify, os.environ['NOTIFY_SOCKET'])
os.kill(master, signal.SIGCONT)
wait()
";
    let mut manager = run(&[], &format!("{LINGERING}{program}")).start();
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_socket_that_hides_one_that_lingers_holds_its_sender_up_alone() {
    let program = "
first, second = hidden(), hidden()
pass_on(first[0], b'READY=1', notify, os.environ['NOTIFY_SOCKET'])
# Heard when the other one is closed, and by nobody if this process ends before.
pass_on(second[0], b'STATUS=heard', notify, os.environ['NOTIFY_SOCKET'])
wait()
";
    let mut manager = run(&[], &format!("{LINGERING}{program}")).start();
    manager.await_ready(1);
    let worker = manager.workers()[0];
    worker.signal(Signal::SIGKILL);
    eventually("it is replaced", || manager.workers().first().is_some_and(|now| now.0 != worker.0));
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn words_without_end_in_the_place_of_an_acknowledgement_keep_the_master_from_nothing() {
    let program = "
words = socket.socket(fileno=int(os.environ['EINHORN_SOCK_FD']))
while True:
    words.send(b'\\n' * 65536)
";
    let mut manager = Program::release()
        .args(["run", "--control", "control", "--ready", "ack", "--start-timeout", "2"])
        .args(["--", "/usr/bin/python3", "-c", &format!("{BEGIN}{program}")])
        .start();
    eventually("it answers", || try_control(&manager.control(), "status").is_ok());
    eventually("it is not ready in time", || manager.stderr().contains("not ready within"));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn neither_do_those_that_come_with_an_acknowledgement() {
    let program = "
strange, strange_receiver = lingering()
sender, receiver = lingering()
os.kill(master, signal.SIGSTOP)
if os.fork() == 0:
    os.setsid()
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(os.environ['EINHORN_SOCK_PATH'])
    sender.close()
    pass_on(strange, b'word', stranger)
    os._exit(len(kept))
is_kept = os.wait()[1] != 0
if not is_kept:
    strange.close()
line = b'{\"command\":\"worker:ack\",\"pid\":%d}\\n' % os.getpid()
pass_on(sender, line, socket.socket(fileno=int(os.environ['EINHORN_SOCK_FD'])))
os.kill(master, signal.SIGCONT)
wait()
";
    let program = format!("{BEGIN}{LINGERING}{program}");
    let mut manager = Program::release()
        .args(["run", "--control", "control", "--ready", "ack"])
        .args(["--", "/usr/bin/python3", "-c", &program])
        .start();
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_watchdog_needs_a_worker_that_talks() {
    for ready in ["1", "ack", "fd"] {
        let options = ["run", "--watchdog", "5", "--ready", ready, "--", "true"];
        let (code, log) = Program::release().args(options).run();
        assert!(code == 1 && log.contains("say `--ready notify`, too"), "{log}");
    }
}

/// The workers of before go on when those of a new version fail, and what they say is heard.
#[test]
fn a_worker_is_heard_after_an_upgrade_that_was_rolled_back() {
    let program = "
if os.path.exists('bad'):
    sys.exit(1)
say('READY=1')
while not os.path.exists('quiet'):
    say('WATCHDOG=1')
    time.sleep(0.05)
say('STATUS=quiet')
wait()
";
    let mut manager = run(&["--watchdog", "5"], program).start();
    manager.await_ready(1);
    let before = manager.workers();
    tell(&manager, "bad");
    let said = control(&manager.control(), "upgrade");
    assert!(said.contains("exit status 1"), "{said}; {}", manager.stderr());
    assert_eq!(manager.workers(), before);
    std::fs::remove_file(manager.path("bad")).expect("a file");
    tell(&manager, "quiet");
    becomes(&manager, "status_text", "quiet");
    let is_found = || manager.stderr().contains("no answer to the heartbeat for 5.0s");
    eventually("its silence is noticed", is_found);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
