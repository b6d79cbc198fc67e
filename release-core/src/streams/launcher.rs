//! What workers write, and why a process ends, before it is up: for whoever started it, when its own
//! standard error goes elsewhere by then.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::outlet::Outlet;
use crate::sys::fds::duplicate_from;

static IS_THERE: AtomicBool = AtomicBool::new(false);

/// Its standard error.
static LAUNCHER: Mutex<Option<(OwnedFd, Outlet)>> = Mutex::new(None);

/// Keeps standard error for the time until this process, a daemon soon, is up.
pub(crate) fn keep() {
    if let Ok(file) = duplicate_from(io::stderr().as_fd(), 3) {
        let outlet = Outlet::of(file.as_fd());
        *LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) = Some((file, outlet));
        IS_THERE.store(true, Ordering::SeqCst);
    }
}

/// Whether somebody still waits.
pub(crate) fn is_there() -> bool {
    IS_THERE.load(Ordering::Relaxed)
}

/// Whole lines, as far as there is room for them now.
pub(crate) fn write(mut lines: &[u8]) {
    if let Some((file, outlet)) = &*LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) {
        while let (false, Ok(count)) = (lines.is_empty(), outlet.write(file.as_fd(), lines)) {
            lines = &lines[count..];
        }
    }
}

/// The process is up.
pub(crate) fn leave() {
    IS_THERE.store(false, Ordering::SeqCst);
    *LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
