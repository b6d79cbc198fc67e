//! Sockets for datagrams: none is lost while workers are replaced, killed, counted anew and upgraded.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use release_tests::{
    Backend, Process, Program, Running, control, eventually, free_port, is_alive, on_every_backend,
};

/// The clients ask so many times in a second.
const RATE: u32 = 5000;

/// How long the last answers of a load may take, on a busy machine.
const SILENCE: Duration = Duration::from_secs(10);

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long an answer is awaited that may not come, before another attempt.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The interval at which the receiver looks whether everything was answered.
const LOOK: Duration = Duration::from_millis(50);

fn start(backend: Backend, options: &[&str], workers: usize) -> (Running, SocketAddr) {
    let address = free_port();
    let program = Program::new(backend, "datagrams").args(options);
    // The workers are another user's if this test is root's.
    fs::set_permissions(program.path("."), Permissions::from_mode(0o755)).expect("a mode");
    let (listen, count) = (address.to_string(), workers.to_string());
    let running = program.args(["--listen", &listen, "--workers", &count]).start();
    running.await_ready(workers);
    (running, address)
}

/// What became of datagrams.
#[derive(Debug)]
struct Answers {
    sent: usize,
    answered: usize,
    /// The kernel had no room for so many, at the server or at the client.
    dropped: usize,
    processes: HashSet<i32>,
}

impl Answers {
    fn lost(&self) -> usize {
        (self.sent - self.answered).saturating_sub(self.dropped)
    }
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    setsockopt(&client, sockopt::RcvBuf, &(8 << 20)).expect("a buffer");
    client.set_read_timeout(Some(ANSWER_TIME)).expect("a timeout");
    client
}

/// The number of datagrams for which the sockets at these addresses had no room.
fn dropped(addresses: &[SocketAddr]) -> usize {
    let shown = |address: &SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => String::new(),
    };
    let shown: Vec<_> = addresses.iter().map(shown).collect();
    let table = fs::read_to_string("/proc/net/udp").expect("sockets");
    let of = |line: &str| -> Option<usize> {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let is_one = shown.iter().any(|address| words.get(1) == Some(&&**address));
        is_one.then(|| words.last()?.parse().ok()).flatten()
    };
    table.lines().filter_map(of).sum()
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks without a pause while `during` runs.
fn load(address: SocketAddr, during: impl FnOnce()) -> Answers {
    let client = client();
    client.set_read_timeout(Some(LOOK)).expect("a timeout");
    let addresses = [address, client.local_addr().expect("an address")];
    let (is_over, before) = (AtomicBool::new(false), dropped(&addresses));
    let total = OnceLock::new();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let (start, mut sent) = (Instant::now(), 0_u32);
            while !is_over.load(Ordering::Relaxed) {
                let due = (start.elapsed() * RATE).as_secs();
                while u64::from(sent) < due {
                    client.send_to(&sent.to_be_bytes(), address).expect("it is sent");
                    sent += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            *total.get_or_init(|| sent as usize)
        });
        let receiving = scope.spawn(|| {
            let (mut seen, mut processes) = (HashSet::new(), HashSet::new());
            let (mut buffer, mut latest) = ([0; 64], Instant::now());
            while total.get() != Some(&seen.len()) {
                let count = match client.recv(&mut buffer) {
                    Ok(count) => count,
                    Err(_) if is_over.load(Ordering::Relaxed) && latest.elapsed() > SILENCE => {
                        break;
                    }
                    Err(_) => continue,
                };
                latest = Instant::now();
                let (pid, number) = buffer[..count].split_at(count - 4);
                let pid = std::str::from_utf8(pid).expect("a number").trim_end();
                processes.insert(pid.parse().expect("a pid"));
                assert!(seen.insert(number.to_owned()), "answered twice");
            }
            (seen.len(), processes)
        });
        // Also after a failure: the threads are awaited.
        let end = End(&is_over);
        during();
        drop(end);
        let sent = sending.join().expect("the sender");
        let (answered, processes) = receiving.join().expect("the receiver");
        let dropped = dropped(&addresses).saturating_sub(before);
        Answers { sent, answered, dropped, processes }
    })
}

/// One answer, from the process that gave it.
fn ask(client: &UdpSocket, address: SocketAddr) -> Option<Process> {
    client.send_to(b"ask?", address).expect("it is sent");
    let mut buffer = [0; 64];
    let count = client.recv(&mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    Some(Process(text.split_once(' ').expect("a pid").0.parse().expect("a pid")))
}

/// Sends a packet with this length, and returns the process that answers, the id that it gives, and
/// whether it may reset a connection that it does not know.
fn packet(
    client: &UdpSocket,
    address: SocketAddr,
    begin: &[u8],
) -> Option<(Process, [u8; 7], bool)> {
    let mut packet = begin.to_owned();
    packet.resize(1200, 0);
    client.send_to(&packet, address).expect("it is sent");
    let mut buffer = [0; 64];
    let count = client.recv(&mut buffer).ok()?;
    let (pid, rest) = buffer[..count].split_at(count - 8);
    let pid = std::str::from_utf8(pid).expect("a number").trim_end();
    let id = rest[..7].try_into().expect("an id");
    Some((Process(pid.parse().expect("a pid")), id, rest[7] == b'r'))
}

/// The first packet of a connection, whose id the client has chosen.
fn open(client: &UdpSocket, address: SocketAddr) -> (Process, [u8; 7]) {
    let begin = [&[0xc0, 0, 0, 0, 1, 8][..], &[7; 8]].concat();
    let (process, id, _) = packet(client, address, &begin).expect("an answer");
    (process, id)
}

/// A later packet of a connection.
fn go_on(client: &UdpSocket, address: SocketAddr, id: [u8; 7]) -> Option<(Process, bool)> {
    let (process, _, may_reset) = packet(client, address, &[&[0x40][..], &id].concat())?;
    Some((process, may_reset))
}

#[track_caller]
fn succeeds(running: &Running, command: &str) {
    assert_eq!(control(&running.control(), command), "ok", "{}", running.stderr());
}

/// Sends a datagram. Returns the process that answers, and the number of datagrams that it has of this
/// client.
fn tell(client: &UdpSocket, address: SocketAddr, text: &str) -> (i32, u64) {
    client.send_to(text.as_bytes(), address).expect("it is sent");
    let mut buffer = [0; 64];
    let count = client.recv(&mut buffer).expect("an answer");
    let answer = std::str::from_utf8(&buffer[..count]).expect("text");
    let (pid, number) = answer.split_once(' ').expect("two numbers");
    (pid.parse().expect("a number"), number.parse().expect("a number"))
}

on_every_backend! {
    fn flows_stay_with_their_process_over_reloads_upgrades_and_scaling(backend: Backend) {
        let (mut running, address) = start(backend, &["--flows"], 2);
        let clients: Vec<_> = (0..150).map(|_| client()).collect();
        let tell_all = |text| -> Vec<_> { clients.iter().map(|it| tell(it, address, text)).collect() };
        let first = tell_all("hello");
        let mut old: HashSet<_> = first.iter().map(|(pid, _)| *pid).collect();
        assert_eq!(old.len(), 2);
        for (count, change) in (2..).zip(["reload", "upgrade", "scale 3", "reload", "upgrade"]) {
            assert_eq!(control(&running.control(), change), "ok", "{}", running.stderr());
            let now = tell_all("again");
            let expected: Vec<_> = first.iter().map(|(pid, _)| (*pid, count)).collect();
            assert_eq!(now, expected, "after {change}");
            // A few may share a bucket with a flow.
            let new = (0..20).map(|_| tell(&client(), address, "bye").0);
            let new: Vec<_> = new.filter(|pid| change == "scale 3" || !old.contains(pid)).collect();
            assert!(new.len() > 12, "{new:?} after {change}");
            old.extend(new);
        }
        tell_all("bye");
        for pid in first.iter().map(|(pid, _)| *pid).collect::<HashSet<_>>() {
            eventually("it ends with its last flow", || !is_alive(pid));
        }
        // Their buckets are free, without an event.
        let left: Vec<_> = tell_all("hello").into_iter().filter(|(_, count)| *count > 1).collect();
        assert!(left.is_empty(), "{left:?}");
        tell_all("bye");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn without_the_table_flows_are_lost(backend: Backend) {
        let (mut running, address) = start(backend, &["--flows", "--untold"], 2);
        let clients: Vec<_> = (0..50).map(|_| client()).collect();
        let tell_all = || -> Vec<_> { clients.iter().map(|it| tell(it, address, "?")).collect() };
        let first = tell_all();
        assert_eq!(control(&running.control(), "reload"), "ok", "{}", running.stderr());
        let now = tell_all();
        assert!(first.iter().zip(now).any(|((before, _), (pid, _))| *before != pid));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn reloads_lose_no_datagram(backend: Backend) {
        let (mut running, address) = start(backend, &[], 2);
        let answers = load(address, || (0..10).for_each(|_| succeeds(&running, "reload")));
        assert_eq!(answers.lost(), 0, "{answers:?}; {}", running.stderr());
        assert!(answers.processes.len() > 10 && answers.sent > 1000, "{answers:?}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_shared_socket_loses_none_either(backend: Backend) {
        let (mut running, address) = start(backend, &["--given"], 2);
        let answers = load(address, || (0..3).for_each(|_| succeeds(&running, "reload")));
        assert_eq!(answers.lost(), 0, "{answers:?}; {}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn neither_other_sizes_nor_upgrades_lose_a_datagram(backend: Backend) {
        let (mut running, address) = start(backend, &["--slots", "12"], 2);
        let commands = ["scale 4", "upgrade", "scale 1", "upgrade", "scale 3", "reload"];
        let answers = load(address, || commands.iter().for_each(|it| succeeds(&running, it)));
        assert_eq!(answers.lost(), 0, "{answers:?}; {}", running.stderr());
        assert!(answers.processes.len() > 6, "{answers:?}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_killed_worker_loses_only_what_is_in_its_hands(backend: Backend) {
        let (mut running, address) = start(backend, &[], 2);
        let answers = load(address, || {
            let before = running.workers();
            before[0].signal(Signal::SIGKILL);
            eventually("another one serves", || running.workers().len() == 2 && running.workers()[0] != before[0]);
            running.await_ready(2);
        });
        assert!(answers.lost() <= 1, "{answers:?}; {}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn what_a_dead_worker_has_not_read_is_answered_by_the_next_one(backend: Backend) {
        let (mut running, address) = start(backend, &[], 1);
        let client = client();
        let worker = ask(&client, address).expect("an answer");
        worker.signal(Signal::SIGSTOP);
        for _ in 0..16 {
            client.send_to(b"ask?", address).expect("it is sent");
        }
        worker.signal(Signal::SIGKILL);
        let mut buffer = [0; 64];
        let answers = (0..16).map_while(|_| client.recv(&mut buffer).ok()).count();
        assert_eq!(answers, 16, "{}", running.stderr());
        assert_ne!(ask(&client, address), Some(worker));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn unix_sockets_and_other_descriptors_reach_the_workers(backend: Backend) {
        let place = tempfile::tempdir().expect("a directory");
        fs::set_permissions(place.path(), Permissions::from_mode(0o777)).expect("a mode");
        let path = |name: &str| place.path().join(name);
        fs::write(path("greeting"), "hello").expect("a file");
        let directory = place.path().to_str().expect("UTF-8");
        let (mut running, _) = start(backend, &["--unix", directory], 1);
        let client = UnixDatagram::bind(path("client")).expect("a client");
        fs::set_permissions(path("client"), Permissions::from_mode(0o666)).expect("a mode");
        client.set_read_timeout(Some(ANSWER_TIME)).expect("a timeout");
        let asks = || {
            client.send_to(b"ask?", path("log")).expect("it is sent");
            let mut buffer = [0; 64];
            let count = client.recv(&mut buffer).expect("an answer");
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        let first = asks();
        assert!(first.ends_with(" ask?"), "{first}");
        succeeds(&running, "upgrade");
        eventually("the next version answers", || asks() != first);
        // The earlier process may end between its accept and its answer.
        eventually("a connection is greeted", || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let records = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
            let records = records.expect("a socket");
            let address = UnixAddr::new(&path("records")).expect("an address");
            connect(records.as_raw_fd(), &address).expect("it listens");
            let mut greeting = [0; 16];
            let count = UnixStream::from(records).read(&mut greeting).expect("a record");
            greeting[..count] == *b"hello"
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
        assert!(!path("log").exists() && !path("records").exists());
    }

    fn without_a_free_socket_a_reload_is_refused_and_says_so(backend: Backend) {
        let (mut running, address) = start(backend, &["--slots", "2", "--busy"], 1);
        fs::write(running.path("busy"), "").expect("a file");
        succeeds(&running, "reload");
        let said = control(&running.control(), "reload");
        assert!(said.contains("all 2 sockets of listener `dns` of group `dns` are in use"), "{said}");
        assert!(ask(&client(), address).is_some());
        fs::remove_file(running.path("busy")).expect("a file");
        eventually("the master knows that the earlier one has ended", || {
            running.stderr().contains(" ended ")
        });
        succeeds(&running, "reload");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

#[test]
fn programs_that_know_nothing_of_it_and_die_of_the_signal_to_stop_lose_none() {
    let address = free_port();
    let uri = format!("udp://{address}?rcvbuf=2M&slots=16");
    let options = ["--listen", &uri, "--workers", "2", "--ready", "notify"];
    let mut manager = Program::manager(&options).any_worker("notify", "WINCH").start();
    manager.await_ready(2);
    let commands = ["reload", "upgrade", "reload"];
    let answers = load(address, || commands.iter().for_each(|it| succeeds(&manager, it)));
    assert_eq!(answers.lost(), 0, "{answers:?}; {}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

on_every_backend! {
    fn connections_of_quic_stay_with_their_process(backend: Backend) {
        let (mut running, address) = start(backend, &["--quic", "--busy"], 2);
        let client = client();
        let (process, id) = open(&client, address);
        let stays = |client: &UdpSocket| {
            let answered = go_on(client, address, id).map(|(process, _)| process);
            assert_eq!(answered, Some(process), "{}", running.stderr());
        };
        (0..8).for_each(|_| stays(&client));
        fs::write(running.path("busy"), "").expect("a file");
        for command in ["reload", "upgrade", "reload"] {
            succeeds(&running, command);
            stays(&client);
            // From another address, too.
            stays(&self::client());
            assert_ne!(open(&client, address).0, process);
        }
        fs::remove_file(running.path("busy")).expect("a file");
        eventually("it has ended", || !is_alive(process.0));
        // Another one can tell the client.
        client.set_read_timeout(Some(ATTEMPT)).expect("a timeout");
        eventually("it may reset the connection", || {
            go_on(&client, address, id).is_some_and(|(next, may_reset)| next != process && may_reset)
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn the_connections_of_a_killed_process_are_reset_by_another(backend: Backend) {
        let (mut running, address) = start(backend, &["--quic"], 2);
        let client = client();
        let (process, id) = open(&client, address);
        process.signal(Signal::SIGKILL);
        client.set_read_timeout(Some(ATTEMPT)).expect("a timeout");
        eventually("it may reset the connection", || {
            go_on(&client, address, id).is_some_and(|(next, may_reset)| next != process && may_reset)
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_process_that_has_datagrams_joined_is_refused(backend: Backend) {
        let (mut running, address) = start(backend, &["--quic"], 1);
        fs::write(running.path("gro"), "").expect("a file");
        let said = control(&running.control(), "reload");
        assert!(said.contains("the socket of listener `dns` has UDP_GRO on"), "{said}");
        let client = client();
        let (process, id) = open(&client, address);
        assert_eq!(go_on(&client, address, id).map(|(process, _)| process), Some(process));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

/// Sockets that the processes open and close themselves lose datagrams: the load finds that.
#[test]
fn sockets_of_the_processes_lose_datagrams() {
    let (mut running, address) = start(Backend::Tokio, &["--own"], 2);
    let answers = load(address, || (0..3).for_each(|_| succeeds(&running, "reload")));
    assert!(answers.lost() > 0, "{answers:?}; {}", running.stderr());
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}
