//! Open connections that workers hand on: reloads, upgrades and deaths neither close nor confuse them.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{
    Installed, Program, Running, control, eventually, free_port, is_alive, on_every_backend,
    zombies,
};

/// A client whose lines are numbered.
struct Client {
    stream: BufReader<TcpStream>,
    lines: u64,
    /// Whether the beginning of the next line was sent.
    has_begun: bool,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(stream), lines: 0, has_begun: false };
        client.ask()?;
        Ok(client)
    }

    /// Sends a line in two parts, and the beginning of the next one with the second part.
    fn ask(&mut self) -> io::Result<()> {
        let number = self.lines + 1;
        let line = format!("line {number}\n");
        if !self.has_begun {
            self.stream.get_mut().write_all(&line.as_bytes()[..3])?;
        }
        let rest = format!("{}lin", &line[3..]);
        self.stream.get_mut().write_all(rest.as_bytes())?;
        (self.has_begun, self.lines) = (true, number);
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        let expected = format!("{number} {line}");
        if answer == expected {
            return Ok(());
        }
        Err(io::Error::other(format!("{answer:?} in place of {expected:?}")))
    }
}

fn listening(program: Program) -> (Running, SocketAddr) {
    let address = free_port();
    let running = program.args([address.to_string()]).start();
    running.await_ready(2);
    (running, address)
}

fn clients(address: SocketAddr, count: usize) -> Vec<Client> {
    let connect = |_| Client::connect(address).expect("a connection");
    (0..count).map(connect).collect()
}

/// Changes the server while each of the clients asks now and then, and some all the time.
fn under_load(clients: &mut [Client], change: impl FnOnce(&AtomicU64)) {
    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for part in clients.chunks_mut(50) {
            let (is_over, asked) = (&is_over, &asked);
            scope.spawn(move || {
                // The first of each part is busy, the others idle.
                while !is_over.load(Ordering::Relaxed) {
                    part[0].ask().expect("an answer to a busy client");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        change(&asked);
        is_over.store(true, Ordering::Relaxed);
    });
    for client in clients {
        client.ask().expect("an answer to an idle client");
    }
}

fn set_limit(running: &Running, files: u32) {
    let (pid, limit) = (running.pid().to_string(), format!("--nofile={files}:"));
    let done = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(done.expect("prlimit").success());
}

fn has_changed(running: &Running, words: &str) {
    assert_eq!(control(&running.control(), words), "ok", "{}", running.stderr());
}

on_every_backend! {
    fn reloads_and_upgrades_close_no_connection(backend: Backend) {
        let installed = Installed::new(backend, "live");
        let (mut running, address) = listening(installed.program());
        let mut clients = clients(address, 200);
        under_load(&mut clients, |asked| {
            for turn in 0..10 {
                let before = asked.load(Ordering::Relaxed);
                has_changed(&running, "reload");
                if turn % 3 == 1 {
                    installed.install(&backend.program("live"));
                    has_changed(&running, "upgrade");
                }
                eventually("the busy clients go on", || asked.load(Ordering::Relaxed) > before + 8);
            }
        });
        eventually("only two workers are left", || running.workers().len() == 2);
        eventually("the others are reaped", || zombies(running.pid()).is_empty());
        for client in &mut clients {
            client.ask().expect("an answer");
        }
        drop(clients);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_killed_worker_takes_only_its_own_connections_along(backend: Backend) {
        let (mut running, address) = listening(Program::new(backend, "live"));
        let mut survivors = 0;
        for _ in 0..3 {
            let mut clients = clients(address, 60);
            let old = running.workers();
            thread::scope(|scope| {
                let reload = scope.spawn(|| control(&running.control(), "reload"));
                // In the middle of the reload, whatever step that is.
                eventually("new ones start", || running.workers().len() > 2);
                let new = running.workers().into_iter().find(|worker| !old.contains(worker));
                for killed in old.first().copied().into_iter().chain(new) {
                    killed.signal(Signal::SIGKILL);
                }
                let _ = reload.join().expect("an answer");
            });
            running.await_ready(2);
            // Closed or served, in order and never by two workers.
            for client in &mut clients {
                match client.ask() {
                    Ok(()) => {
                        client.ask().expect("a second answer");
                        survivors += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Other => {
                        let is_closed = error.to_string().starts_with("\"\" in place");
                        assert!(is_closed, "{error}; log: {}", running.stderr());
                    }
                    // One that is with nobody would wait for ever.
                    Err(error) => {
                        let waits = error.kind() == io::ErrorKind::WouldBlock;
                        assert!(!waits, "neither served nor closed; log: {}", running.stderr());
                    }
                }
            }
        }
        assert!(survivors > 0);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_master_without_free_descriptors_leaves_each_connection_with_its_worker(backend: Backend) {
        let (mut running, address) = listening(Program::new(backend, "live"));
        let mut clients = clients(address, 40);
        let old = running.workers();
        set_limit(&running, 4);
        old.iter().for_each(|worker| assert!(is_alive(worker.0)));
        old[0].signal(Signal::SIGTERM);
        let said = "Too many open files (os error 24): this process may have 4";
        eventually("it is said", || running.stderr().contains(said));
        set_limit(&running, 1024);
        for client in &mut clients {
            client.ask().unwrap_or_else(|error| panic!("{error}; log: {}", running.stderr()));
        }
        drop(clients);
        running.await_ready(2);
        assert!(!running.stderr().contains("SIGKILL"), "{}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_killed_master_leaves_nothing_to_two_workers(backend: Backend) {
        let (mut running, address) = listening(Program::new(backend, "live"));
        let mut clients = clients(address, 60);
        running.signal(Signal::SIGHUP);
        let first = running.workers();
        eventually("new ones start", || running.workers() != first);
        running.signal(Signal::SIGKILL);
        let _ = running.wait();
        eventually("no worker is left", || running.processes().is_empty());
        for client in &mut clients {
            let ended = client.ask().and_then(|()| client.ask());
            let is_closed = ended.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
            assert!(is_closed, "all are closed");
        }
    }

    fn a_service_that_stops_hands_nothing_on(backend: Backend) {
        let (mut running, address) = listening(Program::new(backend, "live"));
        let clients = clients(address, 20);
        running.signal(Signal::SIGTERM);
        eventually("it says why", || running.stderr().contains("no other ready worker"));
        drop(clients);
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    }
}
