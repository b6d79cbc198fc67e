//! Release for Rust on smol: the whole of [`release_core`], and the driver to run it with.
//!
//! Hand [`driver`] to whatever asks for the constructor of a runtime.
//!
//! ```
//! use release_smol::rt::{Driver, run};
//!
//! let driver = release_smol::driver()?;
//! let rt = driver.handle();
//! assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::{Async, Timer};
use release_core::rt::{BoxFuture, Direction, Driver, Progress, Rt, Runtime, Source};
pub use release_core::*;
use smol::Executor;

/// Makes the driver, under the name that every backend has.
///
/// # Errors
///
/// When there are no descriptors left for a reactor (`EMFILE`, `ENFILE`).
pub fn driver() -> io::Result<Smol> {
    // async-io makes its reactor when it is first used, and panics when it cannot.
    polling::Poller::new()?;
    Ok(Smol::default())
}

/// A smol executor of its own, on the reactor that all smol programs share.
///
/// Tasks run on the thread that calls [`Driver::block_on`]. Dropping this drops the tasks that are
/// not done. `smol::spawn` is another executor, with threads of its own.
#[derive(Debug, Default)]
pub struct Smol(Arc<Executor<'static>>);

impl Driver for Smol {
    fn handle(&self) -> Rt {
        Rt::new(SmolRuntime(Arc::downgrade(&self.0)))
    }

    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        async_io::block_on(self.0.run(main));
    }
}

/// Does not own the executor, or a task that holds this would keep itself alive.
#[derive(Debug)]
struct SmolRuntime(Weak<Executor<'static>>);

impl Runtime for SmolRuntime {
    fn spawn(&self, task: BoxFuture) {
        // When the driver is gone the task is dropped, as the driver would have dropped it.
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        let timer = Timer::at(deadline);
        Box::pin(async move {
            timer.await;
        })
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        let io = Async::new_nonblocking(fd)?;
        Ok(Box::new(SmolSource { io, waits: Default::default() }))
    }
}

/// A descriptor, and for each direction whether the next attempt must wait for an event.
#[derive(Debug)]
struct SmolSource {
    io: Async<OwnedFd>,
    waits: [AtomicBool; 2],
}

impl Source for SmolSource {
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

impl AsFd for SmolSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}
