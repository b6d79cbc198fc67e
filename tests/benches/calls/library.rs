//! The library: a master that answers its workers.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::StreamExt;
use nix::unistd::Pid;
use release_core::ipc::{Descriptor, Peer, Refused, Request};
use release_core::rt::Driver;
use release_core::rt::local::Local;
use release_core::supervise::ReloadPolicy;
use release_core::{Environment, Exit, Master, Me, WorkerInfo, Workers, me};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

use crate::cells::{AnyError, BURST, Blob, Cell, Latency, Meter, SMALL, Task, Times};

/// Tells a worker on which runtime it is measured.
const CANDIDATE: &str = "CANDIDATE";

/// Tells a worker what is measured.
const CELL: &str = "CELL";

/// What makes a worker of this candidate spin.
const SPINNING: &str = "spinning";

/// What gives this candidate rings, and their size: the largest message fits.
const RING: (&str, u32) = ("ring", 4 << 20);

/// The runtime of a candidate, and what else it has.
fn parts(candidate: &str) -> (&str, Vec<&str>) {
    let mut parts = candidate.split(", ");
    (parts.next().unwrap_or_default(), parts.collect())
}

#[derive(Serialize, Deserialize)]
enum Ask {
    Small(ByteBuf),
    Blob(ByteBuf),
    List(ByteBuf),
    File(ByteBuf, Descriptor),
    /// A burst of notices has come.
    Heard,
    Took(Latency),
}

impl Request for Ask {
    type Response = Answer;
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Small(ByteBuf),
    Blob(Blob),
    List(List),
    File(ByteBuf, Descriptor),
    Nothing,
}

/// Serde sees each element.
#[derive(Clone)]
struct List(Arc<Vec<u8>>);

impl Serialize for List {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(Vec::deserialize(deserializer)?)))
    }
}

/// A notice of the master.
#[derive(Serialize, Deserialize)]
struct Notice(ByteBuf);

impl Request for Notice {
    type Response = ();
}

pub(crate) fn measure(task: Task) -> Result<(), AnyError> {
    match parts(&task.candidate).0 {
        "Local" => master(task, Local::new),
        "tokio" => master(task, release_tokio::driver),
        "smol" => master(task, release_smol::driver),
        "async-std" => master(task, release_async_std::driver),
        other => Err(format!("no candidate `{other}`").into()),
    }
}

/// What a master answers with.
struct Server {
    meter: Arc<Meter>,
    blob: Blob,
    list: List,
    /// Of each worker, how many requests it has made.
    requests: Vec<AtomicU32>,
    batch: u32,
    /// That a client has a burst of notices; that one is done.
    heard: mpsc::UnboundedSender<()>,
    took: mpsc::UnboundedSender<Latency>,
}

impl Server {
    async fn answer(&self, worker: WorkerInfo, ask: Ask) -> Answer {
        match &ask {
            Ask::Heard => {
                self.meter.add(Pid::from_raw(worker.pid));
                let _ = self.heard.unbounded_send(());
                return Answer::Nothing;
            }
            Ask::Took(latency) => {
                let _ = self.took.unbounded_send(*latency);
                return Answer::Nothing;
            }
            _ => {}
        }
        let index = usize::try_from(worker.id).unwrap_or(0) % self.requests.len();
        let number = self.requests[index].fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            self.meter.add(Pid::from_raw(worker.pid));
        }
        if number.is_multiple_of(self.batch) {
            self.meter.before(number / self.batch).await;
        }
        if (number + 1).is_multiple_of(self.batch) {
            self.meter.after(number / self.batch).await;
        }
        match ask {
            Ask::Small(bytes) => Answer::Small(bytes),
            Ask::Blob(_) => Answer::Blob(self.blob.clone()),
            Ask::List(_) => Answer::List(self.list.clone()),
            Ask::File(bytes, file) => Answer::File(bytes, Descriptor::new(OwnedFd::from(file))),
            Ask::Heard | Ask::Took(_) => Answer::Nothing,
        }
    }
}

fn workers(task: &Task, server: Arc<Server>) -> Workers<Notice> {
    let (_, options) = parts(&task.candidate);
    let workers = Workers::same_executable("caller", task.cell.clients());
    let workers = if options.contains(&RING.0) { workers.ring(RING.1) } else { workers };
    let workers = if task.cell == Cell::Descriptor { workers.descriptors(1) } else { workers };
    let environment = Environment::default().set(CANDIDATE, &task.candidate);
    let context = task.clone();
    workers
        .requests::<Notice>()
        .user("nobody")
        .environment(environment.set(CELL, task.cell.name()))
        // What is measured comes after the canary time, whose timer is in every wait of the master.
        .reload(ReloadPolicy::default().canary(Duration::ZERO))
        .context(move |_| context.clone())
        .answer(move |worker, ask| {
            let server = server.clone();
            async move { Ok(server.answer(worker, ask).await) }
        })
}

fn master<D: Driver>(task: Task, driver: fn() -> io::Result<D>) -> Result<(), AnyError> {
    let is_broadcast = task.cell == Cell::Broadcast;
    let meter = Meter::new(&task, if is_broadcast { 1 } else { task.cell.clients() });
    let (heard, mut answers) = mpsc::unbounded();
    let (took, latencies) = mpsc::unbounded();
    let server = Server {
        meter: meter.clone(),
        blob: Blob::new(task.cell.answer()),
        list: List(Arc::new(vec![b'x'; task.cell.answer()])),
        requests: (0..task.cell.clients()).map(|_| AtomicU32::new(0)).collect(),
        batch: task.batch(),
        heard,
        took,
    };
    let workers = workers(&task, Arc::new(server));
    let connections = workers.connections();
    let exit = Master::new()
        .workers(workers)
        .main(move |master| async move {
            let all = usize::try_from(task.cell.clients())?;
            if is_broadcast {
                // The first burst is that all are there.
                answers.by_ref().take(all).for_each(|_| async {}).await;
                for number in 0..task.batches() {
                    meter.before(number).await;
                    for _ in 0..BURST {
                        let reached = connections.broadcast(Notice(vec![b'x'; SMALL].into()));
                        if reached != all {
                            return Err(format!("a notice has reached {reached} workers").into());
                        }
                    }
                    answers.by_ref().take(all).for_each(|_| async {}).await;
                    meter.after(number).await;
                }
            }
            let latencies: Vec<Latency> = latencies.take(all).collect().await;
            meter.print(latencies.last().copied().unwrap_or_default())?;
            master.stop();
            Ok::<(), AnyError>(())
        })
        .run(driver);
    exit.error().map_or(Ok(()), |error| Err(error.report().into()))
}

pub(crate) fn worker() -> Exit {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let candidate = variable(CANDIDATE);
    let (runtime, options) = parts(&candidate);
    let spin = if options.contains(&SPINNING) { Duration::from_micros(50) } else { Duration::ZERO };
    // Without the master's wish there is no ring.
    let worker = me().ring(RING.1).spin(spin);
    let worker =
        if variable(CELL) == Cell::Descriptor.name() { worker.descriptors(1) } else { worker };
    match runtime {
        "Local" => worker.run_answering(Local::new, hear, ask),
        "smol" => worker.run_answering(release_smol::driver, hear, ask),
        "async-std" => worker.run_answering(release_async_std::driver, hear, ask),
        _ => worker.run_answering(release_tokio::driver, hear, ask),
    }
}

type Bursts = (mpsc::UnboundedSender<()>, Mutex<Option<mpsc::UnboundedReceiver<()>>>);

/// The bursts that have come.
static BURSTS: LazyLock<Bursts> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::unbounded();
    (sender, Mutex::new(Some(receiver)))
});

async fn hear(notice: Notice) -> Result<(), Refused> {
    static HEARD: AtomicU32 = AtomicU32::new(0);
    std::hint::black_box(notice.0);
    if (HEARD.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BURST) {
        BURSTS.0.unbounded_send(()).map_err(|_| Refused::new("too late"))?;
    }
    Ok(())
}

async fn ask(me: Me<Task, Ask>) -> Result<(), AnyError> {
    let (task, master) = (me.context(), me.master());
    me.ready()?;
    let mut times = Times::default();
    match task.cell {
        Cell::Broadcast => {
            let bursts = BURSTS.1.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut bursts = bursts.ok_or("taken twice")?;
            master.call(&Ask::Heard).await?;
            for _ in 0..task.batches() {
                bursts.next().await;
                master.call(&Ask::Heard).await?;
            }
        }
        Cell::InFlight => {
            let callers = (0..task.cell.in_flight()).map(|_| {
                let (master, task) = (master.clone(), task.clone());
                me.rt().spawn(async move { ask_in_turn(&master, &task).await })
            });
            for caller in callers.collect::<Vec<_>>() {
                times = caller.await?;
            }
        }
        _ => times = ask_in_turn(&master, task).await?,
    }
    master.call(&Ask::Took(times.latency(task))).await?;
    me.stopping().await;
    Ok(())
}

async fn ask_in_turn(master: &Peer<Ask>, task: &Task) -> Result<Times, AnyError> {
    let request = || ByteBuf::from(vec![b'x'; SMALL]);
    let mut ask = match task.cell {
        Cell::Large => Ask::Blob(request()),
        Cell::List => Ask::List(request()),
        Cell::Descriptor => Ask::File(request(), Descriptor::new(File::open("/dev/null")?)),
        _ => Ask::Small(request()),
    };
    let mut times = Times::default();
    for _ in 0..task.batches() {
        let began = Instant::now();
        let answer = master.call(&ask).await?;
        times.add(began);
        match answer {
            Answer::Small(bytes) => ask = Ask::Small(bytes),
            Answer::Blob(blob) => assert_eq!(blob.len(), task.cell.answer()),
            Answer::List(list) => assert_eq!(list.0.len(), task.cell.answer()),
            Answer::File(bytes, file) => {
                ask = Ask::File(bytes, Descriptor::new(OwnedFd::from(file)));
            }
            Answer::Nothing => {}
        }
    }
    Ok(times)
}
