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
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Instant;

use release_core::rt::{Blocking, BoxFuture, Driver, Rt, Runtime, Source, async_io};
pub use release_core::*;
use smol::Executor;

/// Makes the driver, under the name that every backend has.
///
/// # Errors
///
/// When there are no descriptors left for a reactor (`EMFILE`, `ENFILE`).
pub fn driver() -> io::Result<Smol> {
    async_io::check()?;
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
        smol::block_on(self.0.run(main));
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

    fn unblock(&self, work: Blocking) {
        smol::unblock(work).detach();
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        async_io::sleep_until(deadline)
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        async_io::register(fd)
    }
}
