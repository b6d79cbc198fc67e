//! The reactor of the async-io crate, for executors based on it: smol, async-std, and your own if
//! it has no reactor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::{Async, Timer};

use super::{BoxFuture, Direction, Progress, Source};

/// Checks that the reactor can be created. [`Driver`](super::Driver) constructors should call this
/// first: async-io creates its reactor on first use, and panics if it cannot.
///
/// # Errors
///
/// Returns an error if no descriptors are left for a reactor (`EMFILE`, `ENFILE`).
///
/// # Examples
///
/// ```
/// use release_core::rt::async_io;
///
/// #[derive(Debug)]
/// struct MyDriver;
///
/// impl MyDriver {
///     fn new() -> std::io::Result<Self> {
///         async_io::check()?;
///         Ok(Self)
///     }
/// }
/// # assert!(MyDriver::new().is_ok());
/// ```
pub fn check() -> io::Result<()> {
    polling::Poller::new().map(drop)
}

/// Implements [`Runtime::sleep_until`](super::Runtime::sleep_until).
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::time::Instant;
/// use release_core::rt::{BoxFuture, Runtime, Source, async_io};
///
/// #[derive(Debug)]
/// struct MyRuntime;
///
/// impl Runtime for MyRuntime {
///     fn spawn(&self, task: BoxFuture) {
///         // Passes the task to your executor.
///         # drop(task);
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> BoxFuture {
///         async_io::sleep_until(deadline)
///     }
///
///     fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
///         async_io::register(fd)
///     }
/// }
/// ```
#[must_use]
pub fn sleep_until(deadline: Instant) -> BoxFuture {
    let timer = Timer::at(deadline);
    Box::pin(async move {
        timer.await;
    })
}

/// Implements [`Runtime::register`](super::Runtime::register).
///
/// # Errors
///
/// Returns the errors of epoll.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::time::Instant;
/// use release_core::rt::{BoxFuture, Runtime, Source, async_io};
///
/// #[derive(Debug)]
/// struct MyRuntime;
///
/// impl Runtime for MyRuntime {
///     fn spawn(&self, task: BoxFuture) {
///         // Passes the task to your executor.
///         # drop(task);
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> BoxFuture {
///         async_io::sleep_until(deadline)
///     }
///
///     fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
///         async_io::register(fd)
///     }
/// }
/// ```
pub fn register(fd: OwnedFd) -> io::Result<Box<dyn Source>> {
    let io = Async::new_nonblocking(fd)?;
    Ok(Box::new(Watched { io, waits: Default::default() }))
}

/// A descriptor, and for each direction whether the next attempt must wait for an event.
#[derive(Debug)]
struct Watched {
    io: Async<OwnedFd>,
    waits: [AtomicBool; 2],
}

impl Source for Watched {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        let [reading, writing] = &self.waits;
        let waits = if direction == Direction::Read { reading } else { writing };
        loop {
            if waits.load(Ordering::Relaxed) {
                ready!(match direction {
                    Direction::Read => self.io.poll_readable(cx),
                    Direction::Write => self.io.poll_writable(cx),
                })?;
            }
            let result = attempt(self.as_fd());
            let blocked = matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            waits.store(blocked || matches!(result, Ok(Progress::Drained)), Ordering::Relaxed);
            if !blocked {
                return Poll::Ready(result.map(drop));
            }
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}
