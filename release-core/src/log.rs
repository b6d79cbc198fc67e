//! Log destinations that are ready to use, for master and worker alike (row R21).
//!
//! The library itself only emits `tracing` events, with fields such as `worker` and `pid`; a
//! program that has a subscriber of its own needs nothing of this module.

use std::ffi::CString;
use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Error, ErrorKind};

/// Sends the log to standard error, a line an event, from level `info` on.
///
/// # Errors
///
/// When the process has a log already.
///
/// # Examples
///
/// ```
/// release_core::log::stderr()?;
/// tracing::info!(worker = 3, "ready");
/// # Ok::<(), release_core::Error>(())
/// ```
pub fn stderr() -> Result<(), Error> {
    let subscriber = fmt()
        .with_max_level(Level::INFO)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say on standard error that it cannot write there, and panic because it cannot.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .finish();
    subscriber.try_init().map_err(twice)
}

/// Sends the log to syslog as a daemon's, under the given name and with the pid.
///
/// The connection is libc's own, which survives a restart of the system's log daemon.
///
/// # Errors
///
/// When the process has a log already, or the name holds a NUL byte.
pub fn syslog(name: &str) -> Result<(), Error> {
    let refuse =
        || Error::new(ErrorKind::Usage, format!("`{name}` cannot be a name in the syslog"));
    let identity = CString::new(name).map_err(|_| refuse())?;
    let options = syslog_tracing::Options::LOG_PID;
    let syslog = syslog_tracing::Syslog::new(identity, options, syslog_tracing::Facility::Daemon)
        .ok_or_else(refuse)?;
    let subscriber = fmt()
        .with_max_level(Level::INFO)
        .with_target(false)
        .with_ansi(false)
        // syslog has its own.
        .with_level(false)
        .without_time()
        .log_internal_errors(false)
        .with_writer(syslog)
        .finish();
    subscriber.try_init().map_err(twice)
}

#[cold]
fn twice(error: tracing_subscriber::util::TryInitError) -> Error {
    Error::new(ErrorKind::Usage, "this process has a log already").caused_by(error)
}
