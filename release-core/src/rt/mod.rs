//! The interface to the executor: the requirements on an async runtime, and the types built on it.
//!
//! A backend implements three traits with six methods: spawn a task, wake at an instant, and report
//! when a descriptor is ready. Streams, listeners, frames, signals and child exits are implemented
//! once, on top of readiness and non-blocking system calls. They behave alike and cost the same on
//! every executor.
//!
//! To run this library on your own executor, implement [`Driver`], [`Runtime`] and [`Source`], and
//! check the result with the suite `conformance::run` (feature `conformance`). An executor without a
//! reactor of its own uses [`reactor::Reactor`]. [`local`] is written as an example to read.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

mod blocking;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod handle;
mod io_handle;
pub mod local;
mod local_tasks;
pub mod reactor;
mod slab;
mod task;

pub(crate) use blocking::wait_for;
pub use handle::{Elapsed, Rt, run};
pub(crate) use io_handle::Io;
pub use local_tasks::spawn_local;
pub use task::Task;
pub(crate) use task::give_way;

/// A task, as passed to [`Runtime::spawn`]; a timer, as returned by [`Runtime::sleep_until`].
///
/// # Examples
///
/// ```
/// use release_core::rt::BoxFuture;
///
/// let task: BoxFuture = Box::pin(async { println!("hello") });
/// ```
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Owns an executor. The `main` of a program creates it once, after the last fork.
///
/// Entry points take the *constructor* of a driver instead of a driver: an executor's threads do
/// not survive a fork, so no executor may exist before the processes are forked.
///
/// # Examples
///
/// ```
/// use release_core::rt::{Driver, local::Local, run};
///
/// /// Runs a program on any executor.
/// fn program<D: Driver>(driver: fn() -> std::io::Result<D>) -> std::io::Result<i32> {
///     Ok(run(&driver()?, async { 42 }))
/// }
/// assert_eq!(program(Local::new)?, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A driver can wrap another one, to measure it for example, or to run it in a context of its own:
///
/// ```
/// use std::future::Future;
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::pin::Pin;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::Instant;
/// use release_core::rt::{BoxFuture, Driver, Rt, Runtime, Source, local::Local, run};
///
/// static TASKS: AtomicUsize = AtomicUsize::new(0);
///
/// /// Counts the tasks of any other driver.
/// #[derive(Debug)]
/// struct Counting<D>(D);
///
/// impl<D: Driver> Driver for Counting<D> {
///     fn handle(&self) -> Rt {
///         Rt::new(CountingRuntime(self.0.handle().runtime()))
///     }
///
///     fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
///         self.0.block_on(main);
///     }
/// }
///
/// #[derive(Debug)]
/// struct CountingRuntime(Arc<dyn Runtime>);
///
/// impl Runtime for CountingRuntime {
///     fn spawn(&self, task: BoxFuture) {
///         TASKS.fetch_add(1, Ordering::Relaxed);
///         self.0.spawn(task);
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> BoxFuture {
///         self.0.sleep_until(deadline)
///     }
///
///     fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
///         self.0.register(fd)
///     }
///
///     // These have a default of their own, which is not that of the other runtime.
///     fn unblock(&self, work: release_core::rt::Blocking) {
///         self.0.unblock(work);
///     }
///
///     fn now(&self) -> Instant {
///         self.0.now()
///     }
/// }
///
/// let driver = Counting(Local::new()?);
/// let rt = driver.handle();
/// run(&driver, async { rt.spawn(async {}).await });
/// assert_eq!(TASKS.load(Ordering::Relaxed), 1);
/// # Ok::<(), io::Error>(())
/// ```
pub trait Driver: Debug {
    /// Returns the handle through which all other code uses the executor.
    fn handle(&self) -> Rt;

    /// Drives `main` and the spawned tasks until `main` completes.
    ///
    /// Tasks still unfinished at that point are dropped with the driver at the latest.
    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>);
}

/// A function, as passed to [`Runtime::unblock`].
///
/// # Examples
///
/// ```
/// use release_core::rt::Blocking;
///
/// /// Runs each function on a new thread, which a runtime with a pool does not need.
/// fn unblock(work: Blocking) {
///     std::thread::spawn(work);
/// }
/// unblock(Box::new(|| println!("hello")));
/// ```
pub type Blocking = Box<dyn FnOnce() + Send>;

/// The operations that the library needs from an async runtime.
///
/// Every method may be called from any thread, with no ambient context, and before the driver runs.
/// An implementation must therefore contain all that it needs. It must not own the executor (the
/// [`Driver`] does): tasks that hold the runtime would keep their own executor alive.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::time::Instant;
/// use release_core::rt::{BoxFuture, Runtime, Source};
///
/// /// Logs each new task of another runtime.
/// #[derive(Debug)]
/// struct Logged<R>(R);
///
/// impl<R: Runtime> Runtime for Logged<R> {
///     fn spawn(&self, task: BoxFuture) {
///         eprintln!("a task is spawned");
///         self.0.spawn(task);
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> BoxFuture {
///         self.0.sleep_until(deadline)
///     }
///
///     fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
///         self.0.register(fd)
///     }
/// }
/// ```
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Runs a task to completion concurrently with the caller, never inside this call. The driver
    /// must notice the task even if it sleeps and another thread calls. After the driver's end the
    /// task is dropped.
    ///
    /// The task's waker may outlive the driver; it then does nothing.
    ///
    /// A panic in the task must not end the driver. [`Rt::spawn`] catches panics earlier, so an
    /// implementation that is used only through [`Rt`] encounters none.
    fn spawn(&self, task: BoxFuture);

    /// Returns a timer that completes at `deadline`, or immediately if it has passed. The timer
    /// never completes earlier, no matter how often and from which thread it is polled.
    ///
    /// The deadline may be ten years away: the library uses that to wait forever. Several timers
    /// may have the same deadline. Dropping the timer cancels it, and must free all memory that it
    /// used.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture;

    /// Watches a descriptor that is already non-blocking and can be polled.
    ///
    /// # Errors
    ///
    /// Returns the errors of the reactor: `ENOMEM`, `EMFILE`, and on some `EPERM` for regular files and
    /// `/dev/null`, which epoll refuses.
    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>>;

    /// Runs a function that may block, outside the threads that run tasks.
    ///
    /// By default, up to four threads per process run the functions: a function that hangs, for example in a
    /// file on a dead network file system, does not delay the next. A runtime with its own threads for
    /// this purpose overrides it. If no thread is available and `work` is
    /// dropped, the caller of [`Rt::unblock`] receives an error.
    ///
    /// [`Rt::unblock`] catches panics before they get here.
    fn unblock(&self, work: Blocking) {
        blocking::unblock(work);
    }

    /// Returns the current time of the clock for deadlines. A paused or simulated clock overrides
    /// this.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A non-blocking descriptor that the runtime watches. Dropping it ends the watch, then closes it.
///
/// If it is dropped on the thread that runs the driver, the descriptor is closed before `drop`
/// returns: the peer sees the end, an address can be bound again, and the number can be reused for
/// another descriptor, which can be watched. On another thread it may be closed a moment later,
/// when the driver no longer waits for it. Only `RLIMIT_NOFILE` limits how many descriptors may be
/// watched and how high their numbers may be.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
/// use std::task::{Context, Poll};
/// use release_core::rt::{Direction, Progress, Source};
///
/// /// Simple and slow: tries again whenever the executor has nothing else to do.
/// #[derive(Debug)]
/// struct Polled(OwnedFd);
///
/// impl AsFd for Polled {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.0.as_fd()
///     }
/// }
///
/// impl Source for Polled {
///     fn poll_io(
///         &self,
///         cx: &mut Context<'_>,
///         _direction: Direction,
///         attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
///     ) -> Poll<io::Result<()>> {
///         match attempt(self.as_fd()) {
///             Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
///                 cx.waker().wake_by_ref();
///                 Poll::Pending
///             }
///             done => Poll::Ready(done.map(drop)),
///         }
///     }
/// }
/// ```
pub trait Source: AsFd + Debug + Send + Sync + 'static {
    /// Runs `attempt` now or when the descriptor is ready, until it returns anything other than
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// * `attempt` runs zero or more times on this thread before the call returns, and is not kept.
    /// * `Ok` and every error but `WouldBlock` end the call immediately and are passed on.
    /// * After `WouldBlock` the task in `cx` is woken when another attempt is worthwhile, and the
    ///   call returns [`Poll::Pending`]. It does not spin.
    /// * After [`Progress::Drained`] the implementation may wait for a new event before the next
    ///   attempt, which saves one system call per message. Hang-up and error conditions must end
    ///   such a wait even if they arrived together with the last data (an edge that is reported
    ///   once).
    /// * One task per direction: a second waker replaces the first.
    ///
    /// # Errors
    ///
    /// Returns the error of the attempt, or of the reactor.
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>>;
}

/// The readiness that an attempt needs.
///
/// # Examples
///
/// ```
/// use release_core::rt::Direction;
///
/// /// Returns the events of poll(2) to wait for.
/// fn events(direction: Direction) -> libc::c_short {
///     match direction {
///         Direction::Read => libc::POLLIN,
///         Direction::Write => libc::POLLOUT,
///     }
/// }
/// # assert_eq!(events(Direction::Read), libc::POLLIN);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Direction {
    /// Data, a connection or an end of file can be read.
    Read,
    /// There is room to write.
    Write,
}

/// The state of the queue behind the descriptor, as seen by a successful attempt.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read};
/// use std::os::unix::net::UnixStream;
/// use release_core::rt::Progress;
///
/// /// Reads once. A short read empties the queue of a stream of bytes.
/// fn attempt(mut socket: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Progress)> {
///     let count = socket.read(buffer)?;
///     let is_short = count < buffer.len();
///     Ok((count, if is_short { Progress::Drained } else { Progress::More }))
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Progress {
    /// More may be possible immediately.
    More,
    /// The queue was emptied (or filled): only a new event makes another attempt worthwhile.
    Drained,
}
