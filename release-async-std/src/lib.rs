//! Multi-process daemons on async-std: all of [`release_core`], and the driver that runs it.
//!
//! **async-std is discontinued** (RUSTSEC-2025-0052). This crate exists for programs that still use it.
//! Start new ones on `release-smol` or on `release-tokio`.
//!
//! Programs usually depend on the package `release-rs` with the feature `async-std`, and say `release` where
//! these examples say `release_async_std`. Pass [`driver`] to every function that needs a runtime:
//!
//! ```no_run
//! use release_async_std::ipc::{CallError, Request};
//! use release_async_std::{Exit, Master, Me, Workers, driver, is_worker, me};
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
//!     // The functions of async-std work in workers and in the master.
//!     async_std::task::spawn(async_std::task::sleep(std::time::Duration::from_secs(1)));
//!     me.stopping().await;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::pin::Pin;

use async_std::task;
use release_core::rt::local::Local;
use release_core::rt::{Driver, Rt};
pub use release_core::*;

/// Creates the driver, under the name that every backend has.
///
/// # Errors
///
/// Returns an error if the system has no descriptors left for a reactor (`EMFILE`, `ENFILE`).
///
/// # Examples
///
/// ```
/// use release_async_std::rt::{Driver, run};
///
/// let driver = release_async_std::driver()?;
/// let rt = driver.handle();
/// assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn driver() -> io::Result<AsyncStd> {
    Local::beside_async_io(|work| drop(task::spawn_blocking(work))).map(AsyncStd)
}

/// An executor and a reactor of its own, beside async-std's.
///
/// Tasks run on the thread that calls [`Driver::block_on`]. Dropping the driver drops unfinished
/// tasks. On async-std's threads, which hand each other their reactor, they would wait longer:
/// `async_std::task::spawn` runs its tasks there. Only those have a `task::current` and task-locals.
///
/// # Examples
///
/// ```
/// use async_std::task;
/// use release_async_std::driver;
/// use release_async_std::rt::run;
///
/// let answer = run(&driver()?, async { task::spawn(async { 42 }).await });
/// assert_eq!(answer, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct AsyncStd(Local);

impl Driver for AsyncStd {
    fn handle(&self) -> Rt {
        self.0.handle()
    }

    /// # Panics
    ///
    /// Panics if it is running already.
    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        self.0.block_on(main);
    }
}
