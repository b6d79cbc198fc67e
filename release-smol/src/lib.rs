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
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::time::Instant;

use release_core::rt::reactor::Reactor;
use release_core::rt::{Blocking, BoxFuture, Driver, Rt, Runtime, Source};
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
    Smol::try_from(Arc::<Executor<'static>>::default())
}

/// An executor of its own, on a reactor of its own.
///
/// Tasks run on the thread that calls [`Driver::block_on`]. Dropping the driver drops unfinished
/// tasks. `smol::spawn` is another executor, with threads of its own. The reactor that all smol programs
/// share runs beside, once something uses it.
///
/// # Examples
///
/// ```
/// use release_smol::driver;
/// use release_smol::rt::run;
///
/// let answer = run(&driver()?, async { smol::unblock(|| 42).await });
/// assert_eq!(answer, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    reactor: Reactor,
}

/// Runs tasks on an executor that other threads of your program run, too.
///
/// Unfinished tasks are dropped with the last owner of the executor. Start the threads in the constructor
/// that you pass to [`Master::run`] or [`Worker::run`], because none may exist before.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use std::{io, thread};
/// use release_smol::ipc::SendError;
/// use release_smol::{Exit, Me, Smol, me};
/// use smol::{Executor, future::pending};
///
/// /// Tasks run on four threads: these three, and that of the main function.
/// fn four_threads() -> io::Result<Smol> {
///     let executor = Arc::new(Executor::new());
///     for number in 1..4 {
///         let (executor, name) = (Arc::clone(&executor), format!("web {number}"));
///         let run = move || smol::block_on(executor.run(pending::<()>()));
///         thread::Builder::new().name(name).spawn(run)?;
///     }
///     Smol::try_from(executor)
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
impl TryFrom<Arc<Executor<'static>>> for Smol {
    type Error = io::Error;

    /// # Errors
    ///
    /// Returns an error if the system has no descriptors left for a reactor (`EMFILE`, `ENFILE`).
    fn try_from(executor: Arc<Executor<'static>>) -> io::Result<Self> {
        Ok(Self { executor, reactor: Reactor::new()? })
    }
}

impl Driver for Smol {
    fn handle(&self) -> Rt {
        Rt::new(SmolRuntime(Arc::downgrade(&self.executor), self.reactor.clone()))
    }

    /// # Panics
    ///
    /// Panics if it is running already.
    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        self.reactor.block_on_beside_async_io(pin!(self.executor.run(main)));
    }
}

/// Does not own the executor. Otherwise, a task that holds a handle would keep itself alive.
#[derive(Debug)]
struct SmolRuntime(Weak<Executor<'static>>, Reactor);

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
        self.1.sleep_until(deadline)
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        self.1.register(fd)
    }
}
