//! Multi-process daemons on tokio: all of [`release_core`], and the driver that runs it.
//!
//! Programs usually depend on the package `release-rs` with the feature `tokio`, and say `release` where
//! these examples say `release_tokio`. Pass [`driver`] to every function that needs a runtime:
//!
//! ```no_run
//! use release_tokio::ipc::{CallError, Request};
//! use release_tokio::{Exit, Master, Me, Workers, driver, is_worker, me};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Hello(String);
//!
//! impl Request for Hello {
//!     type Response = String;
//! }
//!
//! fn main() -> Exit {
//!     // The same executable is the master or a worker, depending on how it was started.
//!     if is_worker() { me().run(driver, worker) } else { master() }
//! }
//!
//! fn master() -> Exit {
//!     let workers = Workers::same_executable("greeter", 2)
//!         .answer(|worker, Hello(text)| async move { Ok(format!("{text}, worker {}", worker.id)) });
//!     Master::new().workers(workers).run(driver)
//! }
//!
//! async fn worker(me: Me<(), Hello>) -> Result<(), CallError> {
//!     eprintln!("{}", me.master().call(&Hello("hello".into())).await?);
//!     me.ready()?;
//!     // Tokio's own functions work in workers and in the master.
//!     tokio::spawn(async { tokio::time::sleep(std::time::Duration::from_secs(1)).await });
//!     me.stopping().await;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use release_core::rt::{Blocking, BoxFuture, Direction, Driver, Progress, Rt, Runtime, Source};
pub use release_core::*;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::{Builder, Handle};

/// Creates a single-threaded runtime: [`Tokio::current_thread`] under the name that every backend has.
///
/// # Errors
///
/// Returns the errors of [`Tokio::current_thread`].
///
/// # Examples
///
/// ```
/// use release_tokio::rt::{Driver, run};
///
/// let driver = release_tokio::driver()?;
/// let rt = driver.handle();
/// assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn driver() -> io::Result<Tokio> {
    Tokio::current_thread()
}

/// A tokio runtime. Dropping it drops unfinished tasks.
///
/// Calls in `tokio::task::spawn_blocking` then have another second: a daemon that must stop does not
/// wait for a blocking call that never ends.
///
/// Code inside [`Driver::block_on`] is in tokio's context: functions such as `tokio::spawn` work there.
///
/// # Examples
///
/// ```
/// use release_tokio::Tokio;
/// use release_tokio::rt::run;
///
/// let driver = Tokio::current_thread()?;
/// let answer = run(&driver, async { tokio::spawn(async { 42 }).await });
/// assert_eq!(answer?, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Tokio(Option<tokio::runtime::Runtime>);

/// How long blocking calls may take when the runtime ends.
const PATIENCE: Duration = Duration::from_secs(1);

impl Tokio {
    /// Creates a runtime whose tasks run on the thread that calls [`Driver::block_on`].
    ///
    /// # Errors
    ///
    /// Returns an error if the system has no descriptors left for epoll (`EMFILE`, `ENFILE`).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_tokio::{Exit, Master, Tokio, Workers};
    ///
    /// fn main() -> Exit {
    ///     let web = Workers::command("web", 4, "unicorn", ["-c", "/etc/unicorn.rb"]);
    ///     Master::new().workers(web).run(Tokio::current_thread)
    /// }
    /// ```
    pub fn current_thread() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(Self::from)
    }

    /// Creates a runtime with as many threads as there are processors. [`Tokio::from`] takes a runtime
    /// with another number.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Tokio::current_thread`], and an error if a thread cannot be started
    /// (`EAGAIN`).
    ///
    /// # Examples
    ///
    /// A few workers with many threads each, below a single-threaded master:
    ///
    /// ```no_run
    /// use release_tokio::ipc::SendError;
    /// use release_tokio::{Exit, Master, Me, Tokio, Workers, driver, is_worker, me};
    ///
    /// fn main() -> Exit {
    ///     if is_worker() {
    ///         return me().run(Tokio::multi_thread, worker);
    ///     }
    ///     Master::new().workers(Workers::same_executable("pool", 2)).run(driver)
    /// }
    ///
    /// async fn worker(me: Me) -> Result<(), SendError> {
    ///     me.ready()?;
    ///     me.stopping().await;
    ///     Ok(())
    /// }
    /// ```
    pub fn multi_thread() -> io::Result<Self> {
        Builder::new_multi_thread().enable_all().build().map(Self::from)
    }

    #[allow(clippy::expect_used)]
    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken out when this is dropped, no earlier")
    }
}

/// Runs on a runtime that you have built: with another number of threads, names, or hooks.
///
/// The runtime needs its drivers for timers and I/O: call `enable_all` of the builder, or the first
/// timer panics. Build it in the constructor that you pass to [`Master::run`] or [`Worker::run`], because
/// a runtime has threads, and none may exist before.
///
/// # Examples
///
/// ```no_run
/// use std::io;
/// use release_tokio::ipc::SendError;
/// use release_tokio::{Exit, Me, Tokio, me};
///
/// fn four_threads() -> io::Result<Tokio> {
///     let mut builder = tokio::runtime::Builder::new_multi_thread();
///     builder.worker_threads(4).thread_name("web").enable_all().build().map(Tokio::from)
/// }
///
/// async fn worker(me: Me) -> Result<(), SendError> {
///     me.ready()?;
///     me.stopping().await;
///     Ok(())
/// }
///
/// fn main() -> Exit {
///     me().run(four_threads, worker)
/// }
/// ```
///
/// Functions such as `tokio::task::spawn_local` need a `LocalSet`, which the main future can be in:
///
/// ```
/// use std::rc::Rc;
/// use release_tokio::{Tokio, rt::run};
/// use tokio::task::{LocalSet, spawn_local};
///
/// let answer = run(&Tokio::current_thread()?, async {
///     let answer = Rc::new(42);
///     LocalSet::new().run_until(async { spawn_local(async move { *answer }).await }).await
/// });
/// assert_eq!(answer?, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
impl From<tokio::runtime::Runtime> for Tokio {
    fn from(runtime: tokio::runtime::Runtime) -> Self {
        Self(Some(runtime))
    }
}

impl Driver for Tokio {
    fn handle(&self) -> Rt {
        Rt::new(TokioRuntime(self.runtime().handle().clone()))
    }

    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        self.runtime().block_on(main);
    }
}

impl Drop for Tokio {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }
}

/// Tokio's handle does not own the runtime, so tasks may hold this.
#[derive(Debug)]
struct TokioRuntime(Handle);

impl Runtime for TokioRuntime {
    fn spawn(&self, task: BoxFuture) {
        self.0.spawn(task);
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        let _context = self.0.enter();
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        let reader = watch(&self.0, fd, Interest::READABLE)?;
        Ok(Box::new(TokioSource { reader, writer: Mutex::default(), handle: self.0.clone() }))
    }

    fn unblock(&self, work: Blocking) {
        self.0.spawn_blocking(work);
    }

    fn now(&self) -> Instant {
        // Tokio's clock stands still while a test has paused it.
        let _context = self.0.enter();
        tokio::time::Instant::now().into_std()
    }
}

/// # Errors
///
/// Returns the errors of epoll, and an error if the runtime is shutting down.
#[allow(deprecated, reason = "its successor is unsafe, to make callers promise what OwnedFd does")]
fn watch(handle: &Handle, fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let _context = handle.enter();
    AsyncFd::with_interest(fd, interest)
}

/// Watches for writing through a duplicate, and only from the first write that finds no room to the
/// next that does: with an interest in both, the reactor is woken whenever the peer of a Unix
/// socket reads, which doubles its work for a connection that answers what it is sent.
#[derive(Debug)]
struct TokioSource {
    reader: AsyncFd<OwnedFd>,
    writer: Mutex<Option<AsyncFd<OwnedFd>>>,
    handle: Handle,
}

/// When a write that could not be waited for is tried again.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_millis(20);

type Attempt<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>;

impl Source for TokioSource {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: Attempt<'_>,
    ) -> Poll<io::Result<()>> {
        match direction {
            Direction::Read => poll_ready(|cx| self.reader.poll_read_ready(cx), cx, attempt)
                .map(|result| result.map(drop)),
            Direction::Write => self.poll_write(cx, attempt),
        }
    }
}

impl TokioSource {
    fn poll_write(&self, cx: &mut Context<'_>, attempt: Attempt<'_>) -> Poll<io::Result<()>> {
        // Taken out, so that the attempt runs without the lock; one task writes at a time.
        let waiting = self.writer().take();
        let writer = match waiting {
            Some(writer) => writer,
            None => match attempt(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.watch_writing() {
                        Ok(writer) => writer,
                        Err(_) => return self.try_later(cx),
                    }
                }
                result => return Poll::Ready(result.map(drop)),
            },
        };
        let polled = poll_ready(|cx| writer.poll_write_ready(cx), cx, attempt);
        // With room left there is nothing to wait for; without, the next write waits first.
        if !matches!(polled, Poll::Ready(Ok(Progress::More) | Err(_))) {
            *self.writer() = Some(writer);
        }
        polled.map(|result| result.map(drop))
    }

    fn watch_writing(&self) -> io::Result<AsyncFd<OwnedFd>> {
        watch(&self.handle, self.as_fd().try_clone_to_owned()?, Interest::WRITABLE)
    }

    /// Descriptors are short: that is no reason to give a connection up.
    fn try_later(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let waker = cx.waker().clone();
        self.handle.spawn(async move {
            tokio::time::sleep(SHORT_OF_DESCRIPTORS).await;
            waker.wake();
        });
        Poll::Pending
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Option<AsyncFd<OwnedFd>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries whenever tokio says ready. Readiness is cleared with a guard from before the attempt, so
/// that an event which arrives during it is not lost; tokio itself remembers that a peer hung up.
fn poll_ready<'a>(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'a, OwnedFd>>>,
    cx: &mut Context<'_>,
    attempt: Attempt<'_>,
) -> Poll<io::Result<Progress>> {
    loop {
        let mut guard = ready!(poll(cx))?;
        match attempt(guard.get_inner().as_fd()) {
            Ok(Progress::Drained) => {
                guard.clear_ready();
                return Poll::Ready(Ok(Progress::Drained));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            other => return Poll::Ready(other),
        }
    }
}

impl AsFd for TokioSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}
