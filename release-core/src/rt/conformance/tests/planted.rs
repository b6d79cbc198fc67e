//! A runtime with exactly one fault.

mod sources;
mod tasks;
mod timers;

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::super::super::local::Local;
use super::super::super::{Blocking, BoxFuture, Driver, Rt, Runtime, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No fault: it waits before it tries, like the loop in tokio's documentation.
    WaitsFirst,
    EqualDeadlines,
    ReadyOnAnyWake,
    NoTenYears,
    TenYearsAtOnce,
    NothingOverASecond,
    TimersLeak,
    UnseenTimer,
    WholeMillis,
    Late,
    DroppedTimerWakes,
    FirstTimerWaker,
    ClockStands,
    UnseenSpawn,
    ThousandTasks,
    Inline,
    LostWhilePolled,
    ForeignWakesLost,
    GreedyTask,
    LooksNowAndThen,
    DoneTasksStay,
    UnfinishedTasksStay,
    LateWakePanics,
    LateSpawnPanics,
    LateSpawnStays,
    EarlySpawnLost,
    OnlyOnce,
    EndsEarly,
    UnblocksInline,
    UnblocksInATask,
    UnblocksTheFirst,
    SourceStaysOpen,
    SourceClosedLater,
    NumberUsedOnce,
    ThousandSources,
    SelectLimit,
    OneWaker,
    FirstWaker,
    Repeats,
    SwallowsErrors,
    Spins,
    EndNotSeen,
    EarlyReadinessLost,
    NoWriting,
    UnawaitedEventLost,
    EndOfBoth,
    WatchStays,
    OneIsWoken,
}

/// Fault state shared by the parts of a runtime.
#[derive(Debug)]
pub(super) struct Plant {
    fault: Option<Fault>,
    start: Instant,
    state: Mutex<State>,
    blocked: AtomicUsize,
    has_ended: AtomicBool,
    live: AtomicUsize,
    /// Number of sources that it watches.
    watched: AtomicUsize,
    waiting: AtomicUsize,
    unblocked: AtomicUsize,
}

#[derive(Default)]
struct State {
    driver: Option<ThreadId>,
    /// Spawned by another thread; seen when the driver happens to look.
    unseen: Vec<BoxFuture>,
    /// Wakers of timers that the driver does not know.
    wakers: Vec<Waker>,
    deadlines: HashSet<Instant>,
    numbers: HashSet<RawFd>,
    /// Files that have been watched, with their numbers.
    files: HashSet<(RawFd, u64)>,
    leaked: Vec<[u64; 8]>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Slows down a fault that would be busy forever, so that it disturbs no other check.
fn rest() {
    thread::sleep(Duration::from_millis(1));
}

impl Plant {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_elsewhere(&self) -> bool {
        self.state().driver.is_some_and(|driver| driver != thread::current().id())
    }
}

#[derive(Debug)]
pub(super) struct Planted {
    inner: Local,
    plant: Arc<Plant>,
}

impl Planted {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        let plant = Arc::new(Plant {
            fault,
            start: Instant::now(),
            state: Mutex::default(),
            blocked: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            watched: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            unblocked: AtomicUsize::new(0),
        });
        Self { inner: Local::new().unwrap(), plant }
    }
}

impl Driver for Planted {
    fn handle(&self) -> Rt {
        Rt::new(Handle { inner: self.inner.handle(), plant: Arc::clone(&self.plant) })
    }

    fn block_on(&self, mut main: Pin<&mut dyn Future<Output = ()>>) {
        let (plant, inner) = (&self.plant, self.inner.handle());
        plant.state().driver = Some(thread::current().id());
        let is_first = plant.blocked.fetch_add(1, Ordering::SeqCst) == 0;
        assert!(is_first || !plant.has(Fault::OnlyOnce), "on purpose");
        let mut next_look = inner.0.sleep_until(Instant::now());
        let mut main = std::pin::pin!(poll_fn(move |cx| {
            while plant.has(Fault::LooksNowAndThen) && next_look.as_mut().poll(cx).is_ready() {
                next_look = inner.0.sleep_until(Instant::now() + Duration::from_millis(10));
            }
            let (unseen, wakers) = {
                let mut state = plant.state();
                (std::mem::take(&mut state.unseen), std::mem::take(&mut state.wakers))
            };
            unseen.into_iter().for_each(|task| inner.0.spawn(task));
            wakers.into_iter().for_each(Waker::wake);
            let polled = main.as_mut().poll(cx);
            if plant.has(Fault::EndsEarly) { std::task::Poll::Ready(()) } else { polled }
        }));
        self.inner.block_on(main.as_mut());
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        self.plant.has_ended.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Handle {
    inner: Rt,
    plant: Arc<Plant>,
}

impl Runtime for Handle {
    fn spawn(&self, task: BoxFuture) {
        if let Some(task) = tasks::spoil(task, &self.plant) {
            self.inner.0.spawn(task);
        }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        timers::spoil(deadline, &self.inner, &self.plant)
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        let number = fd.as_raw_fd();
        if self.plant.has(Fault::SelectLimit) && number >= 1024 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.plant.has(Fault::WatchStays) {
            let file = nix::sys::stat::fstat(&fd).unwrap().st_ino;
            if !self.plant.state().files.insert((number, file)) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        let is_new = self.plant.state().numbers.insert(number);
        Ok(Box::new(sources::Spoilt::new(self.inner.0.register(fd)?, &self.plant, is_new)))
    }

    fn unblock(&self, work: Blocking) {
        let is_first = self.plant.unblocked.fetch_add(1, Ordering::SeqCst) == 0;
        match self.plant.fault {
            Some(Fault::UnblocksInline) => work(),
            Some(Fault::UnblocksInATask) => self.inner.0.spawn(Box::pin(async { work() })),
            Some(Fault::UnblocksTheFirst) if !is_first => drop(work),
            _ => self.inner.0.unblock(work),
        }
    }

    fn now(&self) -> Instant {
        if self.plant.has(Fault::ClockStands) { self.plant.start } else { self.inner.now() }
    }
}
