//! Release for Rust on async-std: the whole of [`release_core`], and the driver to run it with.
//!
//! **async-std is discontinued** (RUSTSEC-2025-0052). This crate exists because a runtime is a plug
//! and there are programs that still have this socket; start new ones on `release-smol`, which
//! shares async-std's reactor, or on `release-tokio`.
//!
//! Hand [`driver`] to whatever asks for the constructor of a runtime.
//!
//! ```
//! use release_async_std::rt::{Driver, run};
//!
//! let driver = release_async_std::driver()?;
//! let rt = driver.handle();
//! assert_eq!(run(&driver, async { rt.spawn(async { 42 }).await }), 42);
//! # Ok::<(), std::io::Error>(())
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

/// Makes the driver, under the name that every backend has.
///
/// # Errors
///
/// When there are no descriptors left for a reactor (`EMFILE`, `ENFILE`).
pub fn driver() -> io::Result<AsyncStd> {
    async_io::check()?;
    Ok(AsyncStd::default())
}

/// The tasks that run on async-std's threads on behalf of one program.
///
/// Those threads are started once and belong to the process, so nothing ends the tasks but this:
/// dropping it cancels those that are not done and waits until they are gone. A task that blocks
/// its thread for ever is waited for just as long.
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

    /// Forgets a task that is done.
    fn remove(&self, id: u64) {
        let task = match &mut *self.lock() {
            Register::Open { tasks, .. } => tasks.remove(&id),
            Register::Closed => None,
        };
        drop(task);
    }
}

/// Does not own the tasks, or one that holds this would keep itself alive.
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
