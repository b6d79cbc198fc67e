//! A program under attack: what it must keep, whatever its peers do.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{Backend, ControlClient, DEADLINE, Process, Running, try_control, try_http_get};

/// What "at once" is on a machine that runs other tests at the same time: longer than they keep a
/// process from running, and less than half of any time that a peer is given.
pub const AT_ONCE: Duration = Duration::from_secs(2);

/// How much memory a program may have more after an attack than before.
const RESIDENT_NOISE_KIB: u64 = 3 * 1024;

/// How much more address space: the gigabytes that a length field promises are never reserved.
const PEAK_NOISE_KIB: u64 = 256 * 1024;

/// What a process holds.
#[derive(Clone, Debug)]
pub struct Footprint {
    process: Process,
    descriptors: Vec<(i32, String)>,
    resident_kib: u64,
    peak_kib: u64,
}

impl Footprint {
    /// As it is now.
    #[must_use]
    pub fn of(process: Process) -> Self {
        Self {
            process,
            descriptors: process.descriptors(),
            resident_kib: process.resident_kib(),
            peak_kib: process.kib("VmPeak"),
        }
    }

    /// Fails unless the process comes back to what it had.
    #[track_caller]
    pub fn is_restored(&self) {
        self.has_no_more_descriptors();
        self.is_bounded();
    }

    /// Fails unless the process comes back to as many descriptors as it had.
    #[track_caller]
    pub fn has_no_more_descriptors(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.process.descriptors().len() > self.descriptors.len() {
            let (now, before) = (self.process.descriptors(), &self.descriptors);
            assert!(Instant::now() < deadline, "before: {before:?}, now: {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails unless the process comes back to as many descriptors of each kind as it had.
    #[track_caller]
    pub fn has_no_more_of_a_kind(&self) {
        let before = kinds(&self.descriptors);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now = self.process.descriptors();
            let is_more = |(kind, count): (&String, &usize)| before.get(kind).unwrap_or(&0) < count;
            if !kinds(&now).iter().any(is_more) {
                return;
            }
            let before = &self.descriptors;
            assert!(Instant::now() < deadline, "before: {before:?}, now: {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails if the process has taken much memory.
    #[track_caller]
    pub fn is_bounded(&self) {
        let now = Self::of(self.process);
        let grown = now.resident_kib.saturating_sub(self.resident_kib);
        assert!(grown <= RESIDENT_NOISE_KIB, "grown by {grown} KiB");
        let grown = now.peak_kib.saturating_sub(self.peak_kib);
        assert!(grown <= PEAK_NOISE_KIB, "reserved {grown} KiB");
    }

    /// By how many KiB the resident memory has grown since.
    #[must_use]
    pub fn growth_kib(&self) -> u64 {
        let now = self.process.resident_kib();
        now.saturating_sub(self.resident_kib)
    }
}

/// How many descriptors of each kind: files, sockets, pipes and others.
fn kinds(descriptors: &[(i32, String)]) -> HashMap<String, usize> {
    let mut kinds = HashMap::new();
    for (_, target) in descriptors {
        let kind = target.trim_end_matches(|letter: char| letter == ']' || letter.is_ascii_digit());
        let kind = if kind.starts_with('/') { "file" } else { kind };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// The example `service` with one worker, and what it held before anybody attacked it.
#[derive(Debug)]
pub struct Target {
    /// The service.
    pub service: Running,
    /// Its HTTP address.
    pub address: SocketAddr,
    /// What the master held in peace.
    pub before: Footprint,
    worker: Process,
}

impl Target {
    /// Starts it, and lets it reach the size it has in peace.
    #[must_use]
    pub fn start(backend: Backend) -> Self {
        let (service, address) = Running::service(backend, 1, &[]);
        service.await_http(address);
        let mut target = Self {
            before: Footprint::of(service.process()),
            worker: service.workers()[0],
            service,
            address,
        };
        // As many connections as there may be, each with a whole frame in its hands.
        let mut peers: Vec<_> = (0..64).map(|_| target.connect()).collect();
        for peer in &mut peers {
            assert_eq!(peer.ask("ping").expect("an answer"), "pong");
        }
        drop(peers);
        target.before.has_no_more_descriptors();
        target.before = Footprint::of(target.service.process());
        target
    }

    /// A connection to its control socket.
    #[track_caller]
    #[must_use]
    pub fn connect(&self) -> ControlClient {
        ControlClient::connect(&self.service.control()).expect("a connection")
    }

    /// Fails unless a second client is answered at once, on the control socket and over HTTP.
    #[track_caller]
    pub fn is_serving(&self) {
        let asked = Instant::now();
        let answer = try_control(&self.service.control(), "ping");
        assert_eq!(answer.expect("an answer"), "pong");
        let took = asked.elapsed();
        assert!(took < AT_ONCE, "ping was answered after {took:?}");
        let answer = try_http_get(self.address).expect("HTTP is answered");
        assert_eq!(answer.pid, self.worker.0, "the worker was replaced");
    }

    /// Fails unless it serves, and holds no more than it did in peace.
    #[track_caller]
    pub fn is_unharmed(&self) {
        self.is_serving();
        self.before.is_restored();
    }
}

impl Process {
    /// A line of /proc/PID/status that is a size, in KiB.
    #[must_use]
    pub fn kib(self, name: &str) -> u64 {
        let line = self.status(name).unwrap_or_default();
        let number = line.split_whitespace().next();
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The processor time it has used so far, in ticks of 10 ms.
    #[must_use]
    pub fn ticks(self) -> u64 {
        let stat = std::fs::read_to_string(self.path("stat")).unwrap_or_default();
        // The name, in parentheses, may hold blanks; utime and stime are fields 14 and 15.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }
}

/// Payloads as frames, one behind the other.
#[must_use]
pub fn frames<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for payload in payloads {
        let payload = payload.as_ref();
        let length = u32::try_from(payload.len()).expect("a length");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes
}

impl ControlClient {
    /// Sends bytes as they are; a peer that has closed already may have them too.
    pub fn throw(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Reads until the peer closes; says what came. `None` when it does not close in time.
    #[must_use]
    pub fn read_to_end(&mut self, time: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + time;
        let mut all = Vec::new();
        let mut chunk = [0; 65536];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let _ = self.0.set_read_timeout(Some(left));
            match self.0.read(&mut chunk) {
                Ok(0) => return Some(all),
                Ok(count) => all.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // Closed with our bytes unread.
                Err(_) => return Some(all),
            }
        }
    }

    /// Sends bytes with descriptors attached.
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        send_descriptors(&self.0, bytes, fds)
    }
}

/// Sends bytes over a socket, with descriptors attached.
pub fn send_descriptors(
    socket: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let parts = [IoSlice::new(bytes)];
    let control = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None)?)
}

/// Whether the kernel lets a socket refuse descriptors (`SO_PASSRIGHTS`, since Linux 6.16).
#[must_use]
pub fn knows_refusals() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

/// Numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    /// So many bytes.
    #[must_use]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    /// A number below `bound`.
    #[must_use]
    pub fn below(&mut self, bound: usize) -> usize {
        let number = usize::try_from(self.next() >> 33).expect("31 bits");
        number % bound.max(1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
