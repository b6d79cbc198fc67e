//! Forwards the output of workers, and the reason of an exit, to the process that started this one,
//! if its own standard error is already redirected and it is not up yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::outlet::Outlet;
use crate::sys::fds::duplicate_from;

static IS_THERE: AtomicBool = AtomicBool::new(false);

/// The standard error of the launcher.
static LAUNCHER: Mutex<Option<(OwnedFd, Outlet)>> = Mutex::new(None);

/// Keeps standard error until this process, soon a daemon, is up.
pub(crate) fn keep() {
    if let Ok(file) = duplicate_from(io::stderr().as_fd(), 3) {
        let outlet = Outlet::of(file.as_fd());
        *LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) = Some((file, outlet));
        IS_THERE.store(true, Ordering::SeqCst);
    }
}

/// Returns whether the launcher still waits.
pub(crate) fn is_there() -> bool {
    IS_THERE.load(Ordering::Relaxed)
}

/// Writes whole lines, as far as there is room for them now.
pub(crate) fn write(mut lines: &[u8]) {
    if let Some((file, outlet)) = &*LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) {
        while let (false, Ok(count)) = (lines.is_empty(), outlet.write(file.as_fd(), lines)) {
            lines = &lines[count..];
        }
    }
}

/// Closes the launcher's standard error, because the process is up.
pub(crate) fn leave() {
    IS_THERE.store(false, Ordering::SeqCst);
    *LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
