//! Multi-process daemons on async-std: all of [`release_core`], and the driver that runs it.
//!
//! **async-std is discontinued** (RUSTSEC-2025-0052). This crate exists for programs that still use it.
//! Start new ones on `release-smol`, which shares async-std's reactor, or on `release-tokio`.
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
//!     // The functions of async-std work in workers and in the master.
//!     async_std::task::spawn(async_std::task::sleep(std::time::Duration::from_secs(1)));
//!     me.stopping().await;
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use async_std::task::{self, JoinHandle};
use release_core::rt::{Blocking, BoxFuture, Driver, Rt, Runtime, Source, async_io};
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
    async_io::check()?;
    Ok(AsyncStd::default())
}

/// The tasks that run on async-std's threads on behalf of one program.
///
/// The threads are started once and belong to the process, so only this driver ends the tasks:
/// dropping it cancels unfinished tasks and waits until they are gone. It also waits for a task that
/// blocks its thread for ever.
///
/// # Examples
///
/// ```
/// use async_std::task;
/// use release_async_std::AsyncStd;
/// use release_async_std::rt::run;
///
/// let answer = run(&AsyncStd::default(), async { task::spawn(async { 42 }).await });
/// assert_eq!(answer, 42);
/// ```
#[derive(Debug, Default)]
pub struct AsyncStd(Arc<Tasks>);

impl Driver for AsyncStd {
    fn handle(&self) -> Rt {
        Rt::new(AsyncStdRuntime(Arc::downgrade(&self.0)))
    }

    fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        task::block_on(main);
    }
}

impl Drop for AsyncStd {
    fn drop(&mut self) {
        let unfinished = std::mem::replace(&mut *self.0.lock(), Register::Closed);
        if let Register::Open { tasks, .. } = unfinished {
            task::block_on(async {
                for task in tasks.into_values() {
                    task.cancel().await;
                }
            });
        }
    }
}

#[derive(Debug, Default)]
struct Tasks(Mutex<Register>);

#[derive(Debug)]
enum Register {
    Open { tasks: HashMap<u64, JoinHandle<()>>, last: u64 },
    Closed,
}

impl Default for Register {
    fn default() -> Self {
        Self::Open { tasks: HashMap::new(), last: 0 }
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a finished task.
    fn remove(&self, id: u64) {
        let task = match &mut *self.lock() {
            Register::Open { tasks, .. } => tasks.remove(&id),
            Register::Closed => None,
        };
        drop(task);
    }
}

/// Does not own the tasks. Otherwise, a task that holds a handle would keep itself alive.
#[derive(Debug)]
struct AsyncStdRuntime(Weak<Tasks>);

impl Runtime for AsyncStdRuntime {
    fn spawn(&self, task: BoxFuture) {
        // When the driver is gone the task is dropped, as the driver would have dropped it.
        let Some(owner) = self.0.upgrade() else {
            return;
        };
        // Locked until the task is in the register, so that it cannot leave it before.
        if let Register::Open { tasks, last } = &mut *owner.lock() {
            *last += 1;
            let (id, register) = (*last, self.0.clone());
            let removing = async move {
                task.await;
                if let Some(owner) = register.upgrade() {
                    owner.remove(id);
                }
            };
            tasks.insert(id, task::spawn(removing));
        }
    }

    fn unblock(&self, work: Blocking) {
        drop(task::spawn_blocking(work));
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        async_io::sleep_until(deadline)
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        async_io::register(fd)
    }
}
