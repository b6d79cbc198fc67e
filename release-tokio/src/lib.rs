//! Release for Rust on tokio: the whole of [`release_core`], and the driver to run it with.
//!
//! Hand [`driver`] to whatever asks for the constructor of a runtime.
//!
//! ```
//! use release_tokio::rt::{Driver, run};
//!
//! let driver = release_tokio::driver()?;
//! let rt = driver.handle();
//! assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
//! # Ok::<(), std::io::Error>(())
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

/// Makes a single-threaded tokio: [`Tokio::current_thread`] under the name that every backend has.
///
/// # Errors
///
/// Those of [`Tokio::current_thread`].
pub fn driver() -> io::Result<Tokio> {
    Tokio::current_thread()
}

/// A tokio runtime. Dropping it drops the tasks that are not done.
///
/// What runs in `tokio::task::spawn_blocking` then has another second: a daemon that was told to
/// stop does not wait for a blocking call that never ends.
///
/// Code inside [`Driver::block_on`] is in tokio's context: `tokio::spawn` and the like work there.
#[derive(Debug)]
pub struct Tokio(Option<tokio::runtime::Runtime>);

/// How long blocking calls may take when the runtime ends.
const PATIENCE: Duration = Duration::from_secs(1);

impl Tokio {
    /// A runtime whose tasks run on the thread that calls [`Driver::block_on`].
    ///
    /// # Errors
    ///
    /// When the kernel has no epoll descriptors left (`EMFILE`, `ENFILE`).
    pub fn current_thread() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(Self::new)
    }

    /// A runtime with as many threads as there are processors.
    ///
    /// # Errors
    ///
    /// Like [`Tokio::current_thread`], and when a thread cannot be started (`EAGAIN`).
    pub fn multi_thread() -> io::Result<Self> {
        Builder::new_multi_thread().enable_all().build().map(Self::new)
    }

    fn new(runtime: tokio::runtime::Runtime) -> Self {
        Self(Some(runtime))
    }

    #[allow(clippy::expect_used)]
    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken out when this is dropped, no earlier")
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
/// Those of epoll, and one when the runtime is shutting down.
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
