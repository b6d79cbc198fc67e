//! The door to the executor: what this library asks of an async runtime, and what it
//! builds on the answer.
//!
//! Three traits with six methods are all that a backend supplies: spawn a task, wake at an instant,
//! and say when a descriptor is ready. Streams, listeners, frames, signals and the exit of a child
//! are written once, on top of readiness and non-blocking system calls, so that they behave and cost
//! alike on every executor.
//!
//! To run this library on an executor of your own, implement [`Driver`], [`Runtime`] and [`Source`]
//! and let the suite `conformance::run` (feature `conformance`) judge the result; [`local`] is
//! written to be read for it.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

#[cfg(feature = "async-io")]
pub mod async_io;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod handle;
mod io_handle;
pub mod local;
mod task;

use crate::sys::threads::Threads;
pub use handle::{Elapsed, Rt, run};
pub(crate) use io_handle::Io;
pub use task::Task;
pub(crate) use task::give_way;

/// A task as it is handed to [`Runtime::spawn`], and a timer as [`Runtime::sleep_until`] returns it.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Owns an executor; what a program's `main` builds, once, after the last fork.
///
/// Entry points take the *constructor* of a driver instead of a driver, because processes are
/// forked before any executor may exist: an executor's threads do not survive a fork.
pub trait Driver: Debug {
    /// The handle through which everything else reaches the executor.
    fn handle(&self) -> Rt;

    /// Drives `main`, and the spawned tasks beside it, until `main` is done.
    ///
    /// Tasks that are unfinished then are dropped at the latest together with the driver.
    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>);
}

/// A function as it is handed to [`Runtime::unblock`].
pub type Blocking = Box<dyn FnOnce() + Send>;

/// One thread for programs whose runtime has none for this.
static BLOCKING: Threads = Threads::new("blocking", 1);

/// What the library needs from an async runtime.
///
/// Every method may be called from any thread, with no ambient context, and before the driver runs
/// anything: an implementation keeps what it needs in itself. It must not own the executor (the [`Driver`] does), or tasks that hold
/// the runtime would keep their own executor alive.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Runs a task to its end beside the caller, never inside this call. The driver notices it also when
    /// it sleeps and another thread calls. After the driver's end the task is dropped.
    ///
    /// The task's waker may outlive the driver; it does nothing then.
    ///
    /// A panic in the task must not take the driver down. [`Rt::spawn`] catches panics before they
    /// get here, so an implementation that is used through [`Rt`] alone meets none.
    fn spawn(&self, task: BoxFuture);

    /// Returns a timer that is done at `deadline`, or at once when that has passed; however often it is
    /// polled, and from whichever thread, it is not done earlier.
    ///
    /// The deadline may be ten years away: the library asks for that where somebody wants to wait for
    /// ever. Several timers may have the same one. Dropping the timer cancels it, and leaves nothing
    /// behind that would use memory until the deadline.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture;

    /// Watches a descriptor that is already non-blocking and can be polled.
    ///
    /// # Errors
    ///
    /// Whatever the reactor says: `EPERM` from epoll for regular files and `/dev/null`, `ENOMEM`,
    /// `EMFILE`.
    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>>;

    /// Runs a function that may block, outside of the threads that run tasks.
    ///
    /// By default one thread does this for the whole process, one function after the other. A runtime
    /// that has threads for the purpose overrides it. A `work` that is dropped instead, because no
    /// thread can be had, is an error for the caller of [`Rt::unblock`].
    ///
    /// [`Rt::unblock`] catches panics before they get here.
    fn unblock(&self, work: Blocking) {
        if let Err((work, error)) = BLOCKING.run(work) {
            tracing::error!(%error, "cannot start a thread for a blocking function");
            drop(work);
        }
    }

    /// The clock that deadlines are measured with. A paused or simulated clock overrides this.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A non-blocking descriptor that the runtime watches. Dropping it ends the watch, then closes.
///
/// When it is dropped on the thread that runs the driver, the descriptor is closed before `drop`
/// returns: the peer sees the end, an address can be bound anew, and the number can be given to another
/// descriptor, which can be watched. On another thread it may be closed a moment later, when the driver
/// no longer waits for it. How many descriptors may be watched, and how high their numbers may be, is
/// limited by `RLIMIT_NOFILE` alone.
pub trait Source: AsFd + Debug + Send + Sync + 'static {
    /// Runs `attempt` now or when the descriptor is ready, until it says something other than
    /// [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// * `attempt` runs zero or more times on this thread before the call returns, and is not kept.
    /// * `Ok` and every error but `WouldBlock` end the call at once and are passed on.
    /// * After `WouldBlock` the task in `cx` is woken when trying again is worthwhile, and the call
    ///   returns [`Poll::Pending`]. It does not spin.
    /// * After [`Progress::Drained`] the implementation may wait for a new event before it tries
    ///   again: that saves one system call per message. Hang-up and error conditions must end such
    ///   a wait even when they came together with the last data (an edge that is reported once).
    /// * One task per direction: a second waker replaces the first.
    ///
    /// # Errors
    ///
    /// The error of the attempt, or of the reactor.
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>>;
}

/// Which readiness an attempt needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Direction {
    /// Data, a connection or an end of file can be read.
    Read,
    /// There is room to write.
    Write,
}

/// What a successful attempt learned about the queue behind the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Progress {
    /// There may be more to do at once.
    More,
    /// The queue was emptied (or filled): only a new event makes another attempt worthwhile.
    Drained,
}
