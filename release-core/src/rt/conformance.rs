//! A test suite that any implementation of [`Driver`] can run on itself (feature `conformance`).
//!
//! The checks express the documented contract of the traits of [`rt`](super) in code. A runtime
//! that passes them can carry everything that this library builds on it.

#![allow(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a check fails by panicking, and reports the errors of what it calls"
)]

mod attempts;
mod lifetime;
mod sources;
mod support;
mod tasks;
mod timers;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use self::support::Make;
use super::Driver;
use crate::guard::panic_message;

/// One requirement of the contract.
struct Check {
    name: &'static str,
    promise: &'static str,
    body: fn(&Make),
}

/// Time limit of a check, after which it counts as hung. Each check needs well under a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// Checks every requirement of [`Driver`], [`Runtime`](super::Runtime) and
/// [`Source`](super::Source). `make` is the constructor that a program would pass to this library;
/// it is called at least once per check.
///
/// Each check runs on its own thread with a deadline. A check that hangs is reported like a check
/// that fails, and the remaining checks still run. Suites started by several threads of a process
/// run one after the other, because one check measures the processor time of the process.
///
/// # Panics
///
/// Panics if a check fails or hangs. The message contains the name of each such check, the
/// requirement that was violated, and the observed behavior.
///
/// # Examples
///
/// The complete `tests/conformance.rs` of a backend:
///
/// ```
/// use release_core::rt::{conformance, local::Local};
///
/// conformance::run(Local::new);
/// ```
pub fn run<D: Driver + 'static>(make: impl Fn() -> io::Result<D> + Send + Sync + 'static) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let make: Arc<Make> =
        Arc::new(move || Box::new(make().expect("the constructor of the driver failed")));
    let failures: Vec<String> =
        checks().filter_map(|check| judge(check, &make, DEADLINE)).collect();
    drop(turn);
    assert!(failures.is_empty(), "the runtime breaks its contract\n{}", failures.join("\n"));
}

fn checks() -> impl Iterator<Item = &'static Check> {
    [attempts::CHECKS, sources::CHECKS, timers::CHECKS, tasks::CHECKS, lifetime::CHECKS]
        .into_iter()
        .flatten()
}

/// Runs one check. Returns a report if it fails, or takes longer than `limit`.
fn judge(check: &'static Check, make: &Arc<Make>, limit: Duration) -> Option<String> {
    let make = Arc::clone(make);
    // Nothing is sent: the channel closes when the thread ends, by return or by panic.
    let (running, ended) = channel::<()>();
    let body = move || {
        let _running = running;
        (check.body)(make.as_ref());
    };
    let thread = thread::Builder::new()
        .name(check.name.to_owned())
        .spawn(body)
        .expect("a thread for the check could not be started");
    let problem = match ended.recv_timeout(limit) {
        // The thread is left behind: it cannot be stopped.
        Err(RecvTimeoutError::Timeout) => format!("it hangs for {limit:?}"),
        _ => panic_message(thread.join().err()?.as_ref()).to_owned(),
    };
    Some(format!("* {}: {}\n  but: {problem}", check.name, check.promise))
}
