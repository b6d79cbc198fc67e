//! `Local`: the built-in runtime of this library, single-threaded, on poll(2).
//!
//! It starts no thread and needs nothing from the kernel but a pipe. It runs a master that watches
//! a handful of descriptors, and the command-line programs. You can also use it as the model for
//! your own runtime. Its structure:
//!
//! * The driver (this file) owns every future. All other parts refer to tasks by number, so no
//!   waker, timer or descriptor can keep a task alive, and dropping the driver drops all tasks.
//! * `shared` is the state that other threads may access: the ready tasks, and the timers and
//!   descriptors with a waiting task. One mutex guards it, and no foreign code runs under that
//!   mutex: wakers are cloned before it is taken, and woken or dropped after it is released.
//! * `watch` contains the two things that a task can wait with: a timer and a source.
//!
//! A turn runs the tasks that were ready when it began, then checks the descriptors and the clock.
//! A task that is always ready delays the others by one turn and does not starve them.

mod shared;
mod watch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use self::shared::{Ready, Shared, TaskWaker};
use self::watch::{LocalSource, Sleep};
use super::{BoxFuture, Driver, Rt, Runtime, Source};
use crate::sys::fds::set_nonblocking;

/// The built-in single-threaded runtime.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::rt::{Driver, local::Local, run};
///
/// let driver = Local::new()?;
/// let rt = driver.handle();
/// let sum = run(&driver, async {
///     let slow = rt.spawn({
///         let rt = rt.clone();
///         async move {
///             rt.sleep(Duration::from_millis(2)).await;
///             40
///         }
///     });
///     let quick = rt.spawn(async { 2 });
///     slow.await + quick.await
/// });
/// assert_eq!(sum, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Local {
    shared: Arc<Shared>,
    rt: Rt,
    tasks: RefCell<Tasks>,
    kicks: PipeReader,
}

/// The futures of the unfinished tasks, by number.
#[derive(Default)]
struct Tasks {
    by_id: HashMap<u64, Running>,
    last_id: u64,
}

struct Running {
    future: BoxFuture,
    wakes: Arc<TaskWaker>,
    waker: Waker,
}

/// Wait of the driver if it cannot watch.
const BLIND_TIME: Duration = Duration::from_millis(20);

/// The main future is queued like a task, under a number that no task gets.
const MAIN: u64 = 0;

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Local {
    /// Creates a runtime. It runs on the thread that calls [`Driver::block_on`].
    ///
    /// # Errors
    ///
    /// Returns an error if the pipe that other threads use to wake this one cannot be created
    /// (`EMFILE`, `ENFILE`).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::rt::{local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// assert_eq!(run(&driver, async { 42 }), 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        Self::with_clock(None)
    }

    /// Creates a runtime with a virtual clock, for tests: time stands still while a task is ready
    /// or a descriptor has an event, and jumps to the next timer when nothing else can happen.
    ///
    /// An hour takes no real time, and the order of events is the same in every run. Use it for
    /// tests in which all events occur on this runtime: it does not wait for other threads and
    /// processes before it jumps. [`Rt::now`] returns the virtual time; code that calls
    /// [`Instant::now`] sees the real time.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// let (really, start) = (Instant::now(), rt.now());
    /// run(&driver, async {
    ///     let never = std::future::pending::<()>();
    ///     assert!(rt.timeout(Duration::from_secs(3600), never).await.is_err());
    ///     assert_eq!(rt.now() - start, Duration::from_secs(3600));
    /// });
    /// assert!(really.elapsed() < Duration::from_secs(3600));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_virtual_time() -> io::Result<Self> {
        Self::with_clock(Some(Instant::now()))
    }

    fn with_clock(virtual_now: Option<Instant>) -> io::Result<Self> {
        let (kicks, kick) = io::pipe()?;
        set_nonblocking(&kicks)?;
        let shared = Arc::new(Shared::new(kick, virtual_now));
        Ok(Self {
            rt: Rt::new(Handle(Arc::clone(&shared))),
            shared,
            tasks: RefCell::default(),
            kicks,
        })
    }

    /// Lets virtual time pass while no task runs, like a process that is held up.
    #[cfg(test)]
    pub(crate) fn hold_up(&self, time: Duration) {
        self.shared.change(|state| state.hold_up(time));
    }

    /// Returns the numbers of unfinished tasks, of waiting timers and of watched descriptors, while
    /// the driver does not run.
    #[cfg(test)]
    pub(crate) fn census(&self) -> [usize; 3] {
        let tasks = self.tasks.borrow().by_id.len();
        let (timers, sources) =
            self.shared.change(|state| (state.timers.len(), state.sources.len()));
        [tasks, timers, sources]
    }

    /// Sleeps until a descriptor, a timer or another thread has an event. If tasks are ready, only
    /// checks for events.
    ///
    /// If poll(2) fails, because memory is short or the descriptor limit was set below the number
    /// watched, every waiting task retries a little later.
    fn wait(&self) {
        let waits = self.shared.begin_wait();
        let mut set = Vec::with_capacity(waits.watched.len() + 1);
        set.push(PollFd::new(self.kicks.as_fd(), PollFlags::POLLIN));
        set.extend(
            waits
                .watched
                .iter()
                .map(|(_, watched, interest)| PollFd::new(watched.as_fd(), *interest)),
        );
        let is_blind = match ppoll(&mut set, waits.timeout.map(TimeSpec::from_duration), None) {
            // After a signal the set still holds its initial zeros: no events.
            Ok(_) | Err(Errno::EINTR) => false,
            Err(_) => true,
        };
        if is_blind {
            thread::sleep(waits.timeout.map_or(BLIND_TIME, |timeout| timeout.min(BLIND_TIME)));
        }
        let mut events = set.iter().map(|entry| match is_blind {
            true => entry.events(),
            false => entry.revents().unwrap_or(PollFlags::POLLERR),
        });
        if events.next().is_some_and(|kicked| !kicked.is_empty()) {
            // One kick is one byte, and there is at most one per sleep.
            let _ = (&self.kicks).read(&mut [0; 8]);
        }
        let ids = waits.watched.iter().map(|(id, ..)| *id);
        let woken = self.shared.end_wait(ids.zip(events));
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The [`Runtime`] behind an [`Rt`] of this driver.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Runtime for Handle {
    fn spawn(&self, task: BoxFuture) {
        self.0.spawn(task);
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        Box::pin(Sleep::new(deadline, self.0.new_id(), Arc::clone(&self.0)))
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        let (id, watched) = self.0.register(fd);
        Ok(Box::new(LocalSource::new(watched, id, Arc::clone(&self.0))))
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

impl Driver for Local {
    fn handle(&self) -> Rt {
        self.rt.clone()
    }

    /// # Panics
    ///
    /// Panics if it is called by the future that it runs.
    fn block_on(&self, mut main: Pin<&mut dyn Future<Output = ()>>) {
        let mut tasks = self.tasks.try_borrow_mut().expect("block_on was called within block_on");
        let wakes = TaskWaker::new(MAIN, &self.shared);
        let waker = Waker::from(Arc::clone(&wakes));
        waker.wake_by_ref();
        loop {
            for _ in 0..self.shared.ready_count() {
                match self.shared.next_ready() {
                    Some(Ready::Task(MAIN)) => {
                        wakes.clear();
                        if main.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                            return;
                        }
                    }
                    Some(Ready::Task(id)) => tasks.go_on(id),
                    Some(Ready::New(future)) => tasks.start(future, &self.shared),
                    None => break,
                }
            }
            self.wait();
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Futures must not start new ones while they are dropped.
        let never_started = self.shared.close();
        self.tasks.take();
        drop(never_started);
    }
}

impl Tasks {
    fn start(&mut self, future: BoxFuture, shared: &Arc<Shared>) {
        self.last_id += 1;
        let wakes = TaskWaker::new(self.last_id, shared);
        let waker = Waker::from(Arc::clone(&wakes));
        self.by_id.insert(self.last_id, Running { future, wakes, waker });
        self.go_on(self.last_id);
    }

    /// Polls a task once. A wake of a finished task came too late, which is no error.
    fn go_on(&mut self, id: u64) {
        let Some(task) = self.by_id.get_mut(&id) else {
            return;
        };
        // Before the poll: a wake during it must queue the task again.
        task.wakes.clear();
        if let Poll::Ready(()) = task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
            self.by_id.remove(&id);
        }
    }
}
