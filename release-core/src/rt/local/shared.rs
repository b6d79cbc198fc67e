//! State shared by all threads: the queue of ready tasks, the timers, the watched descriptors.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::super::{BoxFuture, Direction};

/// Work for the driver.
pub(super) enum Ready {
    /// A spawned future that has not been polled yet.
    New(BoxFuture),
    /// A woken task, by number.
    Task(u64),
}

pub(super) struct Shared {
    state: Mutex<State>,
    kick: PipeWriter,
}

#[derive(Default)]
pub(super) struct State {
    /// The driver sleeps, or is about to: a change must be followed by a kick.
    parked: bool,
    /// The driver is gone.
    closed: bool,
    ready: VecDeque<Ready>,
    /// Timers with a waiting task; the number distinguishes equal deadlines.
    pub(super) timers: BTreeMap<(Instant, u64), Waker>,
    pub(super) sources: BTreeMap<u64, Waiters>,
    last_id: u64,
    /// The virtual time, if the clock is virtual.
    virtual_now: Option<Instant>,
}

/// A descriptor and the tasks that wait for it.
pub(super) struct Waiters {
    watched: Arc<Watched>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A descriptor, and its readiness as known without asking the kernel.
///
/// poll(2) reports a condition as long as it lasts, so excess forgetting is harmless: an attempt
/// that is made too early returns `WouldBlock`, and a wait that begins too late ends immediately.
pub(super) struct Watched {
    pub(super) fd: OwnedFd,
    reading_blocks: AtomicBool,
    writing_blocks: AtomicBool,
}

impl Watched {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, reading_blocks: AtomicBool::new(false), writing_blocks: AtomicBool::new(false) }
    }

    fn flag(&self, direction: Direction) -> &AtomicBool {
        match direction {
            Direction::Read => &self.reading_blocks,
            Direction::Write => &self.writing_blocks,
        }
    }

    /// Returns whether an attempt is known to be useless until poll(2) reports otherwise.
    pub(super) fn blocked(&self, direction: Direction) -> bool {
        self.flag(direction).load(Ordering::SeqCst)
    }

    pub(super) fn set_blocked(&self, direction: Direction, blocked: bool) {
        self.flag(direction).store(blocked, Ordering::SeqCst);
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The arguments of one call of poll(2). It owns its descriptors: otherwise another thread could
/// close one, and its number could be reused while the kernel looks at it.
pub(super) struct Waits {
    pub(super) watched: Vec<(u64, Arc<Watched>, PollFlags)>,
    pub(super) timeout: Option<Duration>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(kick: PipeWriter, virtual_now: Option<Instant>) -> Self {
        Self { state: State { virtual_now, ..State::default() }.into(), kick }
    }

    pub(super) fn now(&self) -> Instant {
        self.lock().now()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the driver if it sleeps.
    ///
    /// A waker or future that the change replaces must be returned, so that its destructor runs
    /// after the lock is released.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let asleep = std::mem::take(&mut state.parked);
        drop(state);
        if asleep {
            // Cannot fail: the driver reads the byte before it parks again, and `self` keeps the
            // pipe open. After the driver's end it is never parked.
            let _ = (&self.kick).write(&[1]);
        }
        changed
    }

    /// Queues a new task. If the driver is gone, drops it instead.
    pub(super) fn spawn(&self, task: BoxFuture) {
        // A refused task is dropped after the lock is released.
        let refused = self.change(|state| {
            if state.closed {
                return Some(task);
            }
            state.ready.push_back(Ready::New(task));
            None
        });
        drop(refused);
    }

    pub(super) fn new_id(&self) -> u64 {
        self.change(State::new_id)
    }

    /// Registers a descriptor without a waiting task. Returns its number.
    pub(super) fn register(&self, fd: OwnedFd) -> (u64, Arc<Watched>) {
        let watched = Arc::new(Watched::new(fd));
        let id = self.change(|state| {
            let (id, watched) = (state.new_id(), Arc::clone(&watched));
            state.sources.insert(id, Waiters { watched, reader: None, writer: None });
            id
        });
        (id, watched)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.lock().ready.len()
    }

    pub(super) fn next_ready(&self) -> Option<Ready> {
        self.lock().ready.pop_front()
    }

    /// Stops further spawns. Returns the futures that were not started yet.
    pub(super) fn close(&self) -> VecDeque<Ready> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.ready)
    }

    /// Lists the descriptors for poll(2), and the timeout. Parks in the same step: a task that
    /// becomes ready from here on sends a kick.
    pub(super) fn begin_wait(&self) -> Waits {
        let mut state = self.lock();
        state.parked = state.ready.is_empty();
        let timeout = if state.parked {
            let now = state.now();
            let first = state.timers.first_key_value().map(|((deadline, _), _)| *deadline);
            let timeout = first.map(|deadline| deadline.saturating_duration_since(now));
            // Virtual time does not pass while a descriptor has an event.
            timeout
                .map(|timeout| if state.virtual_now.is_some() { Duration::ZERO } else { timeout })
        } else {
            Some(Duration::ZERO)
        };
        let watched = state.sources.iter().filter_map(|(id, waiters)| {
            let interest = waiters.interest();
            (!interest.is_empty()).then(|| (*id, Arc::clone(&waiters.watched), interest))
        });
        Waits { watched: watched.collect(), timeout }
    }

    /// Takes the wakers of all events that occurred.
    pub(super) fn end_wait(&self, events: impl Iterator<Item = (u64, PollFlags)>) -> Vec<Waker> {
        let mut woken = Vec::new();
        let mut state = self.lock();
        state.parked = false;
        for (id, event) in events.filter(|(_, event)| !event.is_empty()) {
            // Another thread may have dropped a source in the meantime.
            if let Some(waiters) = state.sources.get_mut(&id) {
                waiters.take(event, &mut woken);
            }
        }
        if woken.is_empty() && state.ready.is_empty() {
            state.jump();
        }
        let now = state.now();
        while let Some(first) = state.timers.first_entry().filter(|first| first.key().0 <= now) {
            woken.push(first.remove());
        }
        woken
    }
}

impl State {
    fn now(&self) -> Instant {
        self.virtual_now.unwrap_or_else(Instant::now)
    }

    #[cfg(test)]
    pub(super) fn hold_up(&mut self, time: Duration) {
        self.virtual_now = self.virtual_now.map(|now| now + time);
    }

    /// Moves the virtual time to the first timer, because nothing can happen earlier.
    fn jump(&mut self) {
        let first = self.timers.first_key_value().map(|((deadline, _), _)| *deadline);
        if let (Some(now), Some(first)) = (&mut self.virtual_now, first) {
            *now = first.max(*now);
        }
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Waiters {
    pub(super) fn side(&mut self, direction: Direction) -> &mut Option<Waker> {
        match direction {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.writer,
        }
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.reader.is_some());
        interest.set(PollFlags::POLLOUT, self.writer.is_some());
        interest
    }

    fn take(&mut self, event: PollFlags, woken: &mut Vec<Waker>) {
        // A hang-up or an error concerns both directions; poll(2) always reports these.
        let end = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        for (direction, wanted) in
            [(Direction::Read, PollFlags::POLLIN), (Direction::Write, PollFlags::POLLOUT)]
        {
            if event.intersects(wanted | end) {
                self.watched.set_blocked(direction, false);
                woken.extend(self.side(direction).take());
            }
        }
    }
}

/// Wakes one task, by number. Repeated wakes before the next poll queue it once.
pub(super) struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl TaskWaker {
    pub(super) fn new(id: u64, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { id, queued: AtomicBool::new(false), shared: Arc::clone(shared) })
    }

    /// Marks that the task is about to be polled: the next wake queues it again.
    pub(super) fn clear(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.shared.change(|state| state.ready.push_back(Ready::Task(self.id)));
        }
    }
}
