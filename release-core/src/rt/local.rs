//! `Local`: the built-in runtime of this library, single-threaded, on a [`Reactor`].
//!
//! It starts no thread. It runs a master, and the command-line programs. You can also use it as the
//! model for your own runtime. Its structure:
//!
//! * The driver (this file) owns every future. All other parts refer to tasks by number, so no
//!   waker, timer or descriptor can keep a task alive, and dropping the driver drops all tasks.
//! * `queue` contains the tasks that are ready, to which other threads may add. One mutex guards it,
//!   and no foreign code runs under that mutex.
//! * The [`Reactor`] has the descriptors and timers that tasks wait for. It polls the tasks that are
//!   ready whenever one is, and sleeps otherwise.
//!
//! A turn runs the tasks that were ready when it began. Then the reactor checks the descriptors and the
//! clock. A task that is always ready delays the others by one turn and does not starve them.

mod queue;

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use self::queue::{Queue, ReadyTask, TaskWaker};
use super::blocking::unblock;
use super::reactor::Reactor;
use super::slab::Slab;
use super::{Blocking, BoxFuture, Driver, Rt, Runtime, Source};

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
    rt: Rt,
    tasks: RefCell<Tasks>,
    queue: Arc<Queue>,
    drive: Drive,
}

/// Runs the reactor until a future completes.
type Drive = fn(&Reactor, Pin<&mut dyn Future<Output = ()>>);

/// The futures of the unfinished tasks, by number.
#[derive(Default)]
struct Tasks(Slab<LocalTask>);

struct LocalTask {
    future: BoxFuture,
    wakes: Arc<TaskWaker>,
    waker: Waker,
}

/// The main future is queued like a task, under a number that no task gets.
const MAIN: u64 = u64::MAX;

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
    /// Returns an error if the system has no descriptors left for a reactor (`EMFILE`, `ENFILE`).
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
        Ok(Self::on(Reactor::new()?, Reactor::block_on, unblock))
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
        Ok(Self::on(Reactor::with_virtual_time()?, Reactor::block_on, unblock))
    }

    /// Creates a runtime whose tasks may use the sockets and timers of the async-io crate, as
    /// [`Reactor::block_on_beside_async_io`] allows, and that runs blocking functions by this function.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{local::Local, run};
    ///
    /// let driver = Local::beside_async_io(|work| drop(std::thread::spawn(work)))?;
    /// run(&driver, async { async_io::Timer::after(Duration::from_millis(1)).await });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "async-io")]
    pub fn beside_async_io(unblock: fn(Blocking)) -> io::Result<Self> {
        Ok(Self::on(Reactor::new()?, Reactor::block_on_beside_async_io, unblock))
    }

    fn on(reactor: Reactor, drive: Drive, unblock: fn(Blocking)) -> Self {
        let queue = Arc::new(Queue::new(reactor));
        let rt = Rt::new(Handle { queue: Arc::clone(&queue), unblock });
        Self { rt, tasks: RefCell::default(), queue, drive }
    }

    /// Lets virtual time pass while no task runs, like a process that is held up.
    #[cfg(test)]
    pub(crate) fn hold_up(&self, time: std::time::Duration) {
        self.queue.reactor.hold_up(time);
    }

    /// Returns the numbers of unfinished tasks, of waiting timers and of watched descriptors, while
    /// the driver does not run.
    #[cfg(test)]
    pub(crate) fn census(&self) -> [usize; 3] {
        let tasks = self.tasks.borrow().0.iter().count();
        let [timers, sources] = self.queue.reactor.census();
        [tasks, timers, sources]
    }
}

/// The [`Runtime`] behind an [`Rt`] of this driver.
#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    unblock: fn(Blocking),
}

impl Runtime for Handle {
    fn spawn(&self, task: BoxFuture) {
        self.queue.push(ReadyTask::New(task));
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        self.queue.reactor.sleep_until(deadline)
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        self.queue.reactor.register(fd)
    }

    fn unblock(&self, work: Blocking) {
        (self.unblock)(work);
    }

    fn now(&self) -> Instant {
        self.queue.reactor.now()
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
        let wakes = TaskWaker::new(MAIN, &self.queue);
        let waker = Waker::from(Arc::clone(&wakes));
        waker.wake_by_ref();
        let turn = poll_fn(|_| {
            for _ in 0..self.queue.len() {
                match self.queue.pop() {
                    Some(ReadyTask::Task(MAIN)) => {
                        wakes.clear();
                        if main.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                            return Poll::Ready(());
                        }
                    }
                    Some(ReadyTask::Task(id)) => tasks.go_on(id),
                    Some(ReadyTask::New(future)) => tasks.start(future, &self.queue),
                    None => break,
                }
            }
            // Who adds to the queue wakes the reactor.
            Poll::Pending
        });
        (self.drive)(&self.queue.reactor, pin!(turn));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Futures must not start new ones while they are dropped.
        let never_started = self.queue.close();
        self.tasks.take();
        drop(never_started);
    }
}

impl Tasks {
    fn start(&mut self, future: BoxFuture, queue: &Arc<Queue>) {
        let id = self.0.insert(|id| {
            let wakes = TaskWaker::new(id, queue);
            let waker = Waker::from(Arc::clone(&wakes));
            LocalTask { future, wakes, waker }
        });
        self.go_on(id);
    }

    /// Polls a task once. A wake of a finished task came too late, which is no error.
    fn go_on(&mut self, id: u64) {
        let Some(task) = self.0.get(id) else {
            return;
        };
        // Before the poll: a wake during it must queue the task again.
        task.wakes.clear();
        if let Poll::Ready(()) = task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
            self.0.remove(id);
        }
    }
}
