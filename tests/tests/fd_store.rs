//! Sockets of `release run` that systemd keeps for it while it does not run; `programs/systemd.py` is in
//! systemd's place.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use release_tests::{
    DEADLINE, Process, Program, Running, control, eventually, free_port, try_http_get,
};

/// A service with `release run` as its main process.
struct Service(Running);

impl Service {
    /// With these options, and two workers that answer HTTP on all sockets.
    fn start(options: &[&str], variables: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/systemd.py");
        let python = ["/usr/bin/python3", script.to_str().expect("UTF-8")];
        let program = Program::command(&python, &Program::release_path())
            .args(["run", "--control", "control", "--ready", "notify", "--workers", "2"])
            .args(options)
            .args(["--"])
            .any_worker("notify", "TERM");
        let program = program.with(|command| {
            command.envs(variables.iter().copied());
        });
        let running = program.start();
        running.await_ready(2);
        Self(running)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn main_process(&self) -> Process {
        let text = std::fs::read_to_string(self.path("pid")).expect("a pid");
        Process(text.parse().expect("a pid"))
    }

    /// The names of what systemd keeps.
    fn store(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("store")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn keeps(&self, names: &[&str]) {
        eventually(&format!("{names:?} are kept; {}", self.0.stderr()), || {
            let store = self.store();
            store.len() == names.len()
                && names.iter().all(|name| {
                    store.iter().any(|kept| kept == name || kept.starts_with(&format!("{name}/")))
                })
        });
    }

    /// Ends it by a signal; how it ended.
    fn end(&self, signal: Signal) -> String {
        self.main_process().signal(signal);
        eventually("it has ended", || self.path("exited").exists());
        let status = std::fs::read_to_string(self.path("exited")).expect("a status");
        std::fs::remove_file(self.path("exited")).expect("a file");
        status
    }

    fn start_again(&self) {
        std::fs::write(self.path("start"), "").expect("a file");
        self.0.await_ready(2);
    }

    /// Has it started with other options from now on.
    fn change(&self, options: &[&str]) {
        let release = Program::release_path();
        let begin = [release.to_str().expect("UTF-8"), "run", "--control", "control", "--ready"];
        let end = ["--", "/usr/bin/python3", "worker.py", "notify", "TERM"];
        let all = [&begin[..], &["notify", "--workers", "2"], options, &end].concat();
        std::fs::write(self.path("command"), all.join("\n")).expect("a file");
    }
}

/// A client that is there before anybody is who could answer.
fn ask<S: Read + Write>(mut stream: S) -> S {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a connection");
    stream
}

#[track_caller]
fn is_answered(mut stream: impl Read) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    stream
}

fn connect_to(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("somebody listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    stream
}

/// The name of a TCP socket, as the store has it.
fn name(place: u32, address: SocketAddr) -> String {
    let address = address.to_string().replace(':', "%3A");
    format!("release-stored/workers/socket{place}/{address}")
}

const ROOM: (&str, &str) = ("FDSTORE", "10");

#[test]
fn connections_wait_while_nothing_runs() {
    let (address, directory) = (free_port(), tempfile::tempdir().expect("a directory"));
    let (path, listen) = (directory.path().join("web.sock"), format!("tcp://{address}"));
    let file = format!("unix://{}?mode=0660", path.display());
    let options = ["--listen", &listen, "--listen", &file];
    let service = Service::start(&options, &[ROOM]);
    let text = path.to_str().expect("UTF-8").replace('/', "%2F");
    let names = [name(0, address), format!("release-stored/workers/socket1/{text}")];
    let names = [names[0].as_str(), names[1].as_str()];
    service.keeps(&names);
    let kept = service.store();
    for (signal, status) in
        [(Signal::SIGTERM, "0"), (Signal::SIGKILL, "-9"), (Signal::SIGTERM, "0")]
    {
        let workers = release_tests::children(service.main_process().0);
        assert_eq!(service.end(signal), status, "{}", service.0.stderr());
        eventually("nothing runs", || workers.iter().all(|it| !release_tests::is_alive(it.0)));
        let (one, other) = (ask(connect(address)), ask(connect_to(&path)));
        service.start_again();
        is_answered(one);
        is_answered(other);
        assert_eq!(service.store(), kept);
    }
    let log = service.0.stderr();
    assert_eq!(log.matches("listening on, as it was stored").count(), 6, "{log}");
    // Nor does an upgrade or a reload change anything.
    for word in ["upgrade", "reload", "upgrade"] {
        assert_eq!(control(&service.0.control(), word), "ok", "{}", service.0.stderr());
        is_answered(ask(connect(address)));
    }
    assert_eq!(service.end(Signal::SIGKILL), "-9");
    let waiting = ask(connect(address));
    service.start_again();
    is_answered(waiting);
    assert_eq!(service.store(), kept);
    // The service has each only once, and closes it when it is not wanted any more.
    let main = service.main_process();
    let (own, passed) = (main.descriptors(), release_tests::children(main.0)[0].descriptors());
    for (_, socket) in passed.iter().filter(|(number, _)| [3, 4].contains(number)) {
        assert_eq!(own.iter().filter(|(_, its)| its == socket).count(), 1, "{own:?}");
    }
    service.end(Signal::SIGTERM);
}

#[test]
fn what_is_not_wanted_any_more_is_closed() {
    let (first, second) = (free_port(), free_port());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("web.sock");
    let listen = |address: SocketAddr| format!("tcp://{address}");
    let file = |mode: &str| format!("unix://{}?mode={mode}", path.display());
    let text = path.to_str().expect("UTF-8").replace('/', "%2F");
    let unix = format!("release-stored/workers/socket1/{text}");
    let options = ["--listen", &listen(first), "--listen", &file("0600")];
    let service = Service::start(&options, &[ROOM]);
    service.keeps(&[&name(0, first), &unix]);
    let given_up = || service.0.stderr().matches("a stored socket is not wanted any more").count();

    // Another address, and another mode: both are new, and the old ones are given up.
    service.end(Signal::SIGKILL);
    service.change(&["--listen", &listen(second), "--listen", &file("0666")]);
    service.start_again();
    service.keeps(&[&name(0, second), &unix]);
    assert_eq!(given_up(), 2, "{}", service.0.stderr());
    assert_eq!(std::fs::metadata(&path).expect("a file").mode() & 0o777, 0o666);
    assert!(TcpStream::connect(first).is_err());
    is_answered(ask(connect(second)));
    is_answered(ask(connect_to(&path)));

    // Somebody has removed the file: clients would not find what was stored.
    service.end(Signal::SIGTERM);
    std::fs::remove_file(&path).expect("it stays at a stop");
    service.start_again();
    service.keeps(&[&name(0, second), &unix]);
    assert_eq!(given_up(), 3, "{}", service.0.stderr());
    is_answered(ask(connect_to(&path)));

    assert_eq!(service.end(Signal::SIGTERM), "0", "{}", service.0.stderr());
}

#[test]
fn sockets_of_a_unit_are_passed_on_beside_what_is_stored() {
    let (activated, address) = (free_port(), free_port());
    let listen = ["--listen", &format!("tcp://{address}")];
    let service = Service::start(&listen, &[ROOM, ("ACTIVATED", &activated.to_string())]);
    service.keeps(&[&name(0, address)]);
    service.end(Signal::SIGKILL);
    service.start_again();
    let workers = release_tests::children(service.main_process().0);
    let environment = workers[0].environment();
    assert!(environment.contains(&"LISTEN_FDNAMES=web:socket0".to_owned()), "{environment:?}");
    assert!(environment.iter().all(|entry| !entry.starts_with("FDSTORE")), "{environment:?}");
    for address in [activated, address] {
        assert!(try_http_get(address).is_ok());
    }
    assert_eq!(control(&service.0.control(), "upgrade"), "ok", "{}", service.0.stderr());
    for address in [activated, address] {
        assert!(try_http_get(address).is_ok());
    }
    service.keeps(&[&name(0, address)]);
    assert_eq!(service.end(Signal::SIGTERM), "0", "{}", service.0.stderr());
}

#[test]
fn no_more_is_stored_than_there_is_room_for() {
    let listen = [free_port(), free_port()].map(|address| format!("tcp://{address}"));
    let options = ["--listen", &listen[0], "--listen", &listen[1]];
    let service = Service::start(&options, &[("FDSTORE", "1")]);
    assert_eq!(service.store().len(), 1);
    assert!(service.0.stderr().contains("raise FileDescriptorStoreMax="));
    service.end(Signal::SIGTERM);
    // What is kept has its address.
    drop(service);
    for room in [&[][..], &[("FDSTORE", "0")], &[("FDSTORE", "x")]] {
        let service = Service::start(&options, room);
        assert_eq!(service.store(), [""; 0]);
        service.end(Signal::SIGTERM);
    }
}

#[test]
fn datagrams_wait_in_slots_that_are_found_again_in_their_order() {
    let address = free_port();
    let udp = |slots: u32| format!("udp://{address}?slots={slots}");
    let service = Service::start(&["--listen", &udp(6)], &[ROOM]);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let ask = || (0..16).for_each(|_| _ = client.send_to(b"ask?", address).expect("it is sent"));
    let answers = || {
        let mut buffer = [0; 64];
        (0..16).map_while(|_| client.recv(&mut buffer).ok()).count()
    };
    let slots = |count: usize| {
        eventually(&format!("{count} slots are kept; {}", service.0.stderr()), || {
            let store = service.store();
            let ends = |slot| store.iter().any(|name| name.ends_with(&format!("/slot{slot}")));
            store.len() == count && (0..count).all(ends)
        });
    };
    // The last one is the master's.
    slots(7);
    let was_stored = || service.0.stderr().matches("listening on, as it was stored").count();
    for (turn, signal) in (1..).zip([Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL]) {
        ask();
        assert_eq!(answers(), 16, "{}", service.0.stderr());
        let workers = release_tests::children(service.main_process().0);
        service.end(signal);
        eventually("nothing runs", || workers.iter().all(|it| !release_tests::is_alive(it.0)));
        // Into the slots of those who have ended.
        ask();
        service.start_again();
        assert_eq!(answers(), 16, "{}", service.0.stderr());
        assert_eq!(was_stored(), turn, "{}", service.0.stderr());
        for word in ["reload", "upgrade"] {
            assert_eq!(control(&service.0.control(), word), "ok", "{}", service.0.stderr());
            ask();
            assert_eq!(answers(), 16, "after {word}; {}", service.0.stderr());
        }
        slots(7);
    }
    // A group of another size has other numbers, and is not taken in part.
    service.end(Signal::SIGKILL);
    service.change(&["--listen", &udp(4)]);
    service.start_again();
    slots(5);
    ask();
    assert_eq!((answers(), was_stored()), (16, 3), "{}", service.0.stderr());
    assert_eq!(service.end(Signal::SIGTERM), "0", "{}", service.0.stderr());
}
