//! Logs panics: standard error may have no reader.

use std::io;
use std::os::fd::AsFd;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Once, OnceLock};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::signal::without_stop_of_writers;

/// The worker that this process is.
static WORKER: OnceLock<u32> = OnceLock::new();

/// Logs the panics of all threads. The previous hook, which prints them, runs afterwards, unless
/// standard error has no room: a master does not wait for its reader.
pub(crate) fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            tell(panic);
            if WORKER.get().is_some() || has_room() {
                without_stop_of_writers(|| before(panic));
            }
        }));
    });
}

/// Sets the worker whose id later panics are logged with.
pub(crate) fn of_worker(id: u32) {
    let _ = WORKER.set(id);
}

fn tell(panic: &PanicHookInfo<'_>) {
    let message = crate::guard::panic_message(panic.payload());
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    log_error!(worker = WORKER.get(), thread = thread.name(), place, "panicked: {message}");
}

fn has_room() -> bool {
    let error = io::stderr();
    let mut watched = [PollFd::new(error.as_fd(), PollFlags::POLLOUT)];
    poll(&mut watched, PollTimeout::ZERO) != Ok(0)
}
