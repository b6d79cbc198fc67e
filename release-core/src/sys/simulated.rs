//! Processes of a test instead of the kernel's, for one thread: starting, signalling and waiting.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use super::exit_status::ExitStatus;
use super::spawn::{Command, SpawnError, SpawnedChild};

/// The system calls that concern processes.
pub(crate) trait System {
    /// Starts a process, like [`spawn`](super::spawn::spawn).
    fn spawn(
        &self,
        command: &Command,
        descriptors: &[(RawFd, BorrowedFd<'_>)],
    ) -> Result<SpawnedChild, SpawnError>;

    /// Sends a signal, or none, to a process or to the whole group that it led.
    fn signal(&self, pidfd: RawFd, signal: i32, is_group: bool) -> io::Result<()>;

    /// Returns how a process has ended, if it has, and reaps it if asked to.
    fn wait(&self, pidfd: RawFd, reaps: bool) -> io::Result<Option<ExitStatus>>;

    /// Returns whether a process of this group runs.
    fn has_group(&self, leader: i32) -> bool;
}

thread_local! {
    static SYSTEM: RefCell<Option<Arc<dyn System>>> = const { RefCell::new(None) };
}

/// Makes the calls of this thread go to a system, or to the kernel again.
pub(crate) fn set_system(system: Option<Arc<dyn System>>) {
    SYSTEM.set(system);
}

/// Returns the system of this thread, unless that is the kernel.
pub(crate) fn system() -> Option<Arc<dyn System>> {
    SYSTEM.with_borrow(Clone::clone)
}
