//! Flows of datagrams under load: each stays with its process, and no datagram is lost.
//!
//! `RELEASE_FLOWS=9000 RELEASE_RATE=20000 RELEASE_RELOADS=50` is the load of `docs/DATAGRAMS.md`.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use release_tests::{
    Backend, Program, Running, control, eventually, free_port, is_alive, on_every_backend,
};

/// Threads that send, each for its part of the flows.
const THREADS: u32 = 4;

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);

fn number(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

/// A sender, and the process that has its flow.
struct Sender {
    socket: UdpSocket,
    process: i32,
    count: u64,
}

impl Sender {
    fn new(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(address).expect("an address");
        socket.set_read_timeout(Some(ANSWER_TIME)).expect("a timeout");
        let mut sender = Self { socket, process: 0, count: 0 };
        (sender.process, sender.count) = sender.tell("hello");
        sender
    }

    /// Sends a datagram. Returns the process that answers, and the number of datagrams that it has of
    /// this sender.
    fn tell(&self, text: &str) -> (i32, u64) {
        self.socket.send(text.as_bytes()).expect("it is sent");
        let mut buffer = [0; 64];
        let count = self.socket.recv(&mut buffer).expect("an answer: no datagram is lost");
        let answer = std::str::from_utf8(&buffer[..count]).expect("text");
        let (pid, number) = answer.split_once(' ').expect("two numbers");
        (pid.parse().expect("a number"), number.parse().expect("a number"))
    }

    fn goes_on(&mut self, text: &str) {
        self.count += 1;
        assert_eq!(self.tell(text), (self.process, self.count), "the flow stays");
    }
}

fn start(backend: Backend) -> (Running, SocketAddr) {
    let address = free_port();
    let program = Program::new(backend, "datagrams").args(["--flows"]);
    // The workers are another user's if this test is root's.
    fs::set_permissions(program.path("."), Permissions::from_mode(0o755)).expect("a mode");
    let running = program.args(["--listen", &address.to_string(), "--workers", "2"]).start();
    running.await_ready(2);
    (running, address)
}

/// Sends for each of the senders in turn, so many datagrams in a second. Returns the number of datagrams.
fn send(senders: &mut [Sender], rate: u32, is_over: &AtomicBool) -> u64 {
    let (start, mut sent) = (Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) {
        for sender in &mut *senders {
            if sent > (start.elapsed() * rate).as_secs() {
                thread::sleep(Duration::from_millis(1));
            }
            sender.goes_on("again");
            sent += 1;
        }
    }
    sent
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

on_every_backend! {
    fn flows_stay_under_load(backend: Backend) {
        let (flows, rate) = (number("RELEASE_FLOWS", 300), number("RELEASE_RATE", 2000));
        let reloads = number("RELEASE_RELOADS", 4);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let limit = soft.max(u64::from(flows) + 1000).min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("enough files");
        let (mut running, address) = start(backend);
        let mut senders: Vec<_> = (0..flows).map(|_| Sender::new(address)).collect();
        let (is_over, begun) = (AtomicBool::new(false), Instant::now());
        let (sent, new) = thread::scope(|scope| {
            let parts = senders.chunks_mut((flows / THREADS) as usize + 1);
            let is_over = &is_over;
            let sending: Vec<_> = parts
                .map(|part| scope.spawn(move || send(part, rate / THREADS, is_over)))
                .collect();
            // Also after a failure: the threads are awaited.
            let end = End(is_over);
            let mut new = HashSet::new();
            for turn in 1..=reloads {
                let change = if turn % 4 == 0 { "upgrade" } else { "reload" };
                assert_eq!(control(&running.control(), change), "ok", "{}", running.stderr());
                for _ in 0..20 {
                    let sender = Sender::new(address);
                    sender.tell("bye");
                    new.insert(sender.process);
                }
            }
            drop(end);
            let sent: u64 = sending.into_iter().map(|part| part.join().expect("a sender")).sum();
            (sent, new)
        });
        println!("{sent} datagrams of {flows} flows in {:?}", begun.elapsed());
        let old: HashSet<_> = senders.iter().map(|sender| sender.process).collect();
        // Otherwise the flows would have had no other place.
        let new: Vec<_> = new.difference(&old).collect();
        assert!(new.len() >= reloads as usize, "{new:?}");
        senders.iter_mut().for_each(|sender| sender.goes_on("bye"));
        for pid in old {
            eventually("it ends with its last flow", || !is_alive(pid));
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}
