//! Ready-to-use log destinations, for masters and workers.
//!
//! The library only emits `tracing` events, with fields such as `worker` and `pid`. If your program
//! has its own subscriber, you do not need this module.

use std::io::{self, IsTerminal, Write};
use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Error, ErrorKind, streams};

mod fields;
mod syslog;

use fields::Fields;
use syslog::Syslog;

/// Sends the log to standard error, one line per event, from level `info` on.
///
/// Lines are coloured on a terminal, unless the environment contains `NO_COLOR` or `TERM` is
/// `dumb`. Control characters in messages and values are escaped. Text of several lines is kept,
/// with each line but the first indented by blanks, so that no line can be mistaken for another
/// event.
///
/// A slow or stopped reader never blocks the process, nor does a terminal with suspended output. Up
/// to 2 MiB are queued. Lines beyond that are lost, and the next line reports their number.
///
/// # Errors
///
/// Returns an error if the process already has a log.
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
        .with_ansi(has_colours())
        .fmt_fields(Fields)
        // Otherwise it would report to standard error that it cannot write there, and panic because
        // it cannot.
        .log_internal_errors(false)
        .with_writer(|| Stderr)
        .finish();
    subscriber.try_init().map_err(twice)
}

/// Sends the log to syslog with the daemon facility, under the given name and with the pid.
///
/// Uses the datagram socket `/dev/log`, and reconnects after the log daemon restarts. A log daemon
/// that is stopped or missing never blocks the process: messages without room are lost, and counted
/// in the first message that is accepted again.
///
/// # Errors
///
/// Returns an error if the process already has a log, or if the name is invalid.
///
/// # Examples
///
/// ```no_run
/// release_core::log::syslog("service")?;
/// tracing::info!("started");
/// # Ok::<(), release_core::Error>(())
/// ```
pub fn syslog(name: &str) -> Result<(), Error> {
    if name.is_empty()
        || name.contains(|letter: char| letter.is_control() || " :[]".contains(letter))
    {
        let message = format!("`{name}` cannot be a name in the syslog");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let subscriber = fmt()
        .with_max_level(Level::INFO)
        .with_target(false)
        .with_ansi(false)
        // syslog adds its own.
        .with_level(false)
        .without_time()
        .fmt_fields(Fields)
        .log_internal_errors(false)
        .with_writer(Syslog::new(name))
        .finish();
    subscriber.try_init().map_err(twice)
}

/// Returns whether standard error is a terminal with colours, and they are not disabled.
fn has_colours() -> bool {
    let says = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let can = says("TERM").is_some_and(|term| term != "dumb") && says("NO_COLOR").is_none();
    can && io::stderr().is_terminal()
}

/// Standard error, which receives each event unchanged.
struct Stderr;

impl Write for Stderr {
    /// The program cannot act on the outcome of a write.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        streams::error().push(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cold]
fn twice(error: tracing_subscriber::util::TryInitError) -> Error {
    Error::new(ErrorKind::Usage, "this process has a log already").caused_by(error)
}
