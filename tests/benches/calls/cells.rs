//! The cells of the table, and how each is measured. The programs of `tests/peers` have this file, too.
//!
//! One process answers and measures; its children ask. The first tenth of the calls only warms up.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use smol::lock::Barrier;

pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The bytes of a request, of a small answer and of a notice.
pub(crate) const SMALL: usize = 32;

/// The bytes of a large answer.
pub(crate) const LARGE: usize = 1 << 20;

/// How many broadcasts follow each other before each client says that it has them.
pub(crate) const BURST: u32 = 32;

/// What the processes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cell {
    Sequential,
    Large,
    /// The answer is a `Vec<u8>`, each of whose elements serde sees.
    List,
    InFlight,
    FanIn,
    Broadcast,
    Descriptor,
}

impl Cell {
    pub(crate) const ALL: [Self; 7] = [
        Self::Sequential,
        Self::Large,
        Self::List,
        Self::InFlight,
        Self::FanIn,
        Self::Broadcast,
        Self::Descriptor,
    ];

    pub(crate) fn of(name: &str) -> Result<Self, AnyError> {
        let found = Self::ALL.into_iter().find(|cell| cell.name() == name);
        found.ok_or_else(|| format!("no cell `{name}`").into())
    }

    /// The word of the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Large => "large",
            Self::List => "list",
            Self::InFlight => "in-flight",
            Self::FanIn => "fan-in",
            Self::Broadcast => "broadcast",
            Self::Descriptor => "descriptor",
        }
    }

    /// How many processes ask, or listen.
    pub(crate) fn clients(self) -> u32 {
        match self {
            Self::FanIn => 4,
            Self::Broadcast => 64,
            _ => 1,
        }
    }

    /// How many calls each client has in flight.
    pub(crate) fn in_flight(self) -> u32 {
        if self == Self::InFlight { 64 } else { 1 }
    }

    pub(crate) fn answer(self) -> usize {
        if matches!(self, Self::Large | Self::List) { LARGE } else { SMALL }
    }

    /// How many messages of all clients one round measures.
    pub(crate) fn calls(self) -> u32 {
        match self {
            Self::Sequential | Self::Descriptor => 7_000,
            Self::Large => 100,
            Self::List => 20,
            Self::InFlight => 64_000,
            Self::FanIn => 8_000,
            Self::Broadcast => 40_960,
        }
    }

    /// Two numbers of messages, whose traces differ by what a message costs.
    pub(crate) fn traced(self) -> (u32, u32) {
        match self {
            Self::Large => (20, 70),
            Self::List => (5, 10),
            Self::InFlight => (640, 6_400),
            Self::Broadcast => (2_048, 10_240),
            _ => (480, 2_400),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "32 bytes each way, one call after the other",
            Self::Large => "an answer of 1 MiB",
            Self::List => "an answer of 1 MiB as a list of bytes",
            Self::InFlight => "64 calls in flight, 32 bytes each way",
            Self::FanIn => "four clients of one server, 32 bytes each way",
            Self::Broadcast => "one notice of 32 bytes to each of 64 clients",
            Self::Descriptor => "a descriptor each way",
        })
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) candidate: String,
    pub(crate) cell: Cell,
    /// Of all clients, without those that warm up.
    calls: u32,
}

impl Task {
    pub(crate) fn new(candidate: &str, cell: &str, calls: &str) -> Result<Self, AnyError> {
        Ok(Self { candidate: candidate.to_owned(), cell: Cell::of(cell)?, calls: calls.parse()? })
    }

    /// Of a cell, for whichever candidate.
    pub(crate) fn of(cell: Cell, calls: u32) -> Self {
        Self { candidate: String::new(), cell, calls }
    }

    /// All messages of all clients, with those that warm up.
    pub(crate) fn messages(&self) -> u32 {
        self.batches() * self.batch() * self.cell.clients()
    }

    /// What is in one batch of a client.
    pub(crate) fn batch(&self) -> u32 {
        if self.cell == Cell::Broadcast { BURST } else { self.cell.in_flight() }
    }

    /// The batches of a client that only warm up.
    fn warm_up(&self) -> u32 {
        (self.measured() / 10).max(1)
    }

    fn measured(&self) -> u32 {
        (self.calls / self.cell.clients() / self.batch()).max(1)
    }

    /// The batches of each client.
    pub(crate) fn batches(&self) -> u32 {
        self.warm_up() + self.measured()
    }
}

/// The median and 99th percentile of single round trips.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
}

/// Single round trips of a client.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, began: Instant) {
        self.0.push(began.elapsed());
    }

    pub(crate) fn latency(&self, task: &Task) -> Latency {
        let warm_up = usize::try_from(task.warm_up()).unwrap_or(0);
        let mut times = self.0.get(warm_up..).unwrap_or_default().to_vec();
        times.sort_unstable();
        let at = |hundredth: usize| times.get(times.len() * hundredth / 100).copied();
        Latency { median: at(50).unwrap_or_default(), p99: at(99).unwrap_or_default() }
    }
}

/// What one round has shown.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) messages: u32,
    pub(crate) elapsed: Duration,
    /// Of all processes.
    pub(crate) processor: Duration,
    pub(crate) latency: Latency,
}

/// Measures from the first batch after the warm-up of all clients to the last.
pub(crate) struct Meter {
    warm_up: u32,
    batches: u32,
    messages: u32,
    clients: Barrier,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    processes: Vec<Pid>,
    began: Option<(Instant, Duration)>,
    result: Option<Measured>,
}

impl Meter {
    /// `connections` say when their batches begin and end: all clients, or the one broadcaster.
    pub(crate) fn new(task: &Task, connections: u32) -> Arc<Self> {
        let state = State { processes: vec![Pid::this()], ..State::default() };
        Arc::new(Self {
            warm_up: task.warm_up(),
            batches: task.batches(),
            messages: task.measured() * task.batch() * task.cell.clients(),
            clients: Barrier::new(usize::try_from(connections).unwrap_or(1)),
            state: Mutex::new(state),
        })
    }

    /// Counts the processor time of a client.
    pub(crate) fn add(&self, process: Pid) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.processes.contains(&process) {
            state.processes.push(process);
        }
    }

    /// Before batch `number` of a connection.
    pub(crate) async fn before(&self, number: u32) {
        if number == self.warm_up && self.clients.wait().await.is_leader() {
            self.begin();
        }
    }

    /// After batch `number` of a connection.
    pub(crate) async fn after(&self, number: u32) {
        if number + 1 == self.batches && self.clients.wait().await.is_leader() {
            self.end();
        }
    }

    /// As `before`, on a thread of the connection's own.
    pub(crate) fn before_blocking(&self, number: u32) {
        if number == self.warm_up && self.clients.wait_blocking().is_leader() {
            self.begin();
        }
    }

    /// As `after`, on a thread of the connection's own.
    pub(crate) fn after_blocking(&self, number: u32) {
        if number + 1 == self.batches && self.clients.wait_blocking().is_leader() {
            self.end();
        }
    }

    fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.began = Some((Instant::now(), state.processor()));
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, processor) = (Instant::now(), state.processor());
        state.result = state.began.map(|(began, before)| Measured {
            messages: self.messages,
            elapsed: now - began,
            processor: processor.saturating_sub(before),
            latency: Latency::default(),
        });
    }

    /// Prints the result for the process that compares.
    pub(crate) fn print(&self, latency: Latency) -> Result<(), AnyError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut measured = state.result.ok_or("the last batch was not answered")?;
        measured.latency = latency;
        println!("{}", serde_json::to_string(&measured)?);
        Ok(())
    }
}

impl State {
    fn processor(&self) -> Duration {
        let clocks = self.processes.iter().filter_map(|pid| clock_getcpuclockid(*pid).ok());
        clocks.filter_map(|clock: ClockId| clock.now().ok()).map(Duration::from).sum()
    }
}

/// The children of a program that has no master: the same executable, with a socket as standard input.
pub(crate) struct Clients {
    children: Vec<Child>,
    pub(crate) sockets: Vec<UnixStream>,
}

impl Clients {
    pub(crate) fn start(task: &Task, meter: &Meter) -> Result<Self, AnyError> {
        let mut clients = Self { children: Vec::new(), sockets: Vec::new() };
        for _ in 0..task.cell.clients() {
            let (here, there) = UnixStream::pair()?;
            let child = Command::new(std::env::current_exe()?)
                .args(["--ask", &task.candidate, task.cell.name(), &task.calls.to_string()])
                .stdin(OwnedFd::from(there))
                .stdout(Stdio::piped())
                .spawn()?;
            meter.add(Pid::from_raw(child.id().try_into()?));
            clients.children.push(child);
            clients.sockets.push(here);
        }
        Ok(clients)
    }

    /// Waits for their end; the latency that the last one has seen.
    pub(crate) fn end(self) -> Result<Latency, AnyError> {
        drop(self.sockets);
        let mut latency = Latency::default();
        for child in self.children {
            let output = child.wait_with_output()?;
            latency = serde_json::from_slice(&output.stdout)
                .map_err(|error| format!("a client has ended, {}: {error}", output.status))?;
        }
        Ok(latency)
    }
}

/// The socket of a client.
pub(crate) fn own_socket() -> io::Result<UnixStream> {
    use std::os::fd::AsFd;
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// A large answer, which the server has once and sends again and again.
#[derive(Clone, Debug)]
pub(crate) struct Blob(Arc<ByteBuf>);

impl Blob {
    pub(crate) fn new(size: usize) -> Self {
        Self(Arc::new(vec![b'x'; size].into()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(ByteBuf::deserialize(deserializer)?)))
    }
}
