//! Multi-process daemons on smol: all of [`release_core`], and the driver that runs it.
//!
//! Programs usually depend on the package `release-rs` with the feature `smol`, and say `release` where
//! these examples say `release_smol`. Pass [`driver`] to every function that needs a runtime:
//!
//! ```no_run
//! use release_smol::ipc::{CallError, Request};
//! use release_smol::{Exit, Master, Me, Workers, driver, is_worker, me};
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
//!     // The same executable is the master or a worker, depending on who started it.
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
//!     me.ready().ok();
//!     // Smol's own functions work in workers and in the master.
//!     smol::spawn(async { smol::Timer::after(std::time::Duration::from_secs(1)).await }).detach();
//!     me.stopping().await;
//!     Ok(())
//! }
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

/// Creates the driver, under the name that every backend has.
///
/// # Errors
///
/// Returns an error if the system has no descriptors left for a reactor (`EMFILE`, `ENFILE`).
///
/// # Examples
///
/// ```
/// use release_smol::rt::{Driver, run};
///
/// let driver = release_smol::driver()?;
/// let rt = driver.handle();
/// assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn driver() -> io::Result<Smol> {
    async_io::check()?;
    Ok(Smol::default())
}

/// An executor of its own, on the reactor that all smol programs share.
///
/// Tasks run on the thread that calls [`Driver::block_on`]. Dropping the driver drops unfinished
/// tasks. `smol::spawn` is another executor, with threads of its own.
///
/// # Examples
///
/// ```
/// use release_smol::Smol;
/// use release_smol::rt::run;
///
/// let answer = run(&Smol::default(), async { smol::unblock(|| 42).await });
/// assert_eq!(answer, 42);
/// ```
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

/// Does not own the executor. Otherwise, a task that holds a handle would keep itself alive.
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
