//! Workers have a session of their own: no way to the terminal of the master, nor to each other.

use nix::sys::signal::Signal;
use release_tests::{Process, Program, Terminal, control, has, is_root, on_every_backend};

/// What a worker tries that wants to type into the shell of whoever has started its master.
const TYPES: &str = "
import errno, fcntl, os, termios
def attempt(name, do):
    try:
        do()
        print('attempt', name, 'succeeded', flush=True)
    except OSError as error:
        print('attempt', name, errno.errorcode[error.errno], flush=True)
attempt('open', lambda: os.open('/dev/tty', os.O_RDWR))
for number in (0, 1, 2):
    if os.isatty(number):
        attempt('type', lambda: fcntl.ioctl(number, termios.TIOCSTI, b'x'))
        attempt('take', lambda: fcntl.ioctl(number, termios.TIOCSCTTY, 0))
        attempt('foreground', lambda: os.tcsetpgrp(number, os.getpgrp()))
print('attempts made', flush=True)
";

/// The master of a launcher that waits for it.
fn master(launcher: &Process) -> Process {
    *release_tests::children(launcher.0).first().expect("the master runs")
}

fn is_a_session_of_its_own(worker: Process) {
    // The process group and the session.
    let [_, group, session] = worker.stat()[..3] else { panic!("no such process") };
    assert_eq!([group, session], [i64::from(worker.0); 2]);
}

on_every_backend! {
    fn a_worker_has_no_terminal_and_control_c_ends_in_order(backend: Backend) {
        if !is_root("workers of another user") || !has("/usr/bin/python3", "--version") {
            return;
        }
        let mut terminal = Terminal::new();
        let program = Program::under(&Terminal::LAUNCHER, backend, "probe").as_master("");
        let script = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(script.path(), TYPES).expect("written");
        std::fs::set_permissions(script.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("a mode");
        let order = format!("runs {}", script.path().display());
        std::fs::write(program.path("behaviour"), order).expect("written");
        let output = std::fs::File::create(program.path("output")).expect("a file");
        let mut probe = terminal.give_to(program).with(|it| { it.stdout(output); }).start();
        probe.await_ready(1);
        let said = std::fs::read_to_string(probe.path("output")).expect("output") + &probe.stderr();
        assert!(said.contains("attempts made") && said.contains("attempt open ENXIO"), "{said}");
        assert!(!said.contains("succeeded"), "{said}");
        let master = master(&probe.process());
        let worker = release_tests::children(master.0)[0];
        is_a_session_of_its_own(worker);
        terminal.type_in("\x03");
        assert_eq!(probe.wait().code(), Some(0), "{}", probe.stderr());
        let log = probe.stderr();
        assert!(log.contains("SIGINT") && log.contains("exit=exit status 0"), "{log}");
    }
}

/// Of a worker whose standard error is the terminal itself.
#[test]
fn a_command_cannot_type_into_the_terminal() {
    if !is_root("workers of another user") || !has("/usr/bin/python3", "--version") {
        return;
    }
    let mut terminal = Terminal::new();
    let program = Program::release_under(&Terminal::LAUNCHER).args([
        "run",
        "--control",
        "control",
        "--user",
        "nobody",
        "--ready",
        "500ms",
        "--",
        "/usr/bin/python3",
        "-c",
    ]);
    let stays = format!("{TYPES}\nimport time\ntime.sleep(1000)");
    let output = std::fs::File::create(program.path("output")).expect("a file");
    let program = program.args([stays]).with(|it| {
        it.stdout(output);
    });
    let mut manager = terminal.give_to(program).start();
    manager.await_ready(1);
    let said = std::fs::read_to_string(manager.path("output")).expect("output");
    assert!(said.contains("attempts made") && said.contains("attempt open ENXIO"), "{said}");
    assert!(!said.contains("succeeded"), "{said}");
    terminal.type_in("\x03");
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
}

/// Worker 1 has a child that moves into the process group of worker 0, and speaks for that one.
const FORGES: &str = "
import os, socket, time
me = int(os.environ['EINHORN_CHILD_INDEX'])
def say(path, word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.connect(path)
        notices.send(word)
if me == 0:
    open('0.new', 'w').write(str(os.getpid()) + ' ' + os.environ['NOTIFY_SOCKET'])
    os.rename('0.new', '0')
    time.sleep(1000)
while not os.path.exists('0'):
    time.sleep(0.01)
pid, path = open('0').read().split()
if os.fork() == 0:
    try:
        os.setpgid(0, int(pid))
        print('forger is in', flush=True)
    except PermissionError:
        print('forger is kept out', flush=True)
    say(path, b'READY=1')
    os._exit(0)
os.wait()
say(os.environ['NOTIFY_SOCKET'], b'READY=1')
time.sleep(1000)
";

#[test]
fn a_worker_cannot_speak_for_another_one() {
    if !has("/usr/bin/python3", "--version") {
        return;
    }
    let program = Program::release().args([
        "run",
        "--control",
        "control",
        "--workers",
        "2",
        "--ready",
        "notify",
        "--",
        "/usr/bin/python3",
        "-c",
        FORGES,
    ]);
    let output = std::fs::File::create(program.path("output")).expect("a file");
    let mut manager = program
        .with(|it| {
            it.stdout(output);
        })
        .start();
    // The forged message came first.
    manager.await_ready(1);
    let said = std::fs::read_to_string(manager.path("output")).expect("output");
    assert!(said.contains("forger is kept out"), "{said}");
    assert!(!manager.stderr().contains("ready worker=0"), "{}", manager.stderr());
    assert!(control(&manager.control(), "status").contains("starting"));
    manager.signal(Signal::SIGTERM);
    manager.wait();
}
