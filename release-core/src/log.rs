//! Log destinations that are ready to use, for master and worker alike.
//!
//! The library itself only emits `tracing` events, with fields such as `worker` and `pid`; a
//! program that has a subscriber of its own needs nothing of this module.

use std::io::{self, IsTerminal, Write};
use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Error, ErrorKind, streams};

mod fields;
mod syslog;

use fields::Fields;
use syslog::Syslog;

/// Sends the log to standard error, a line an event, from level `info` on.
///
/// Lines are coloured on a terminal, unless the environment has a `NO_COLOR` or `TERM` is `dumb`. Control
/// characters in messages and values are escaped. A text of several lines is printed as such, and each but
/// the first begins with blanks: none can be taken for another event.
///
/// A reader that is slow or has stopped holds nobody up, nor does a terminal whose output is suspended:
/// up to 2 MiB wait for it. What is more than that is lost, and the number of lost lines is the next line.
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
        .with_ansi(has_colours())
        .fmt_fields(Fields)
        // It would say on standard error that it cannot write there, and panic because it cannot.
        .log_internal_errors(false)
        .with_writer(|| Stderr)
        .finish();
    subscriber.try_init().map_err(twice)
}

/// Sends the log to syslog as a daemon's, under the given name and with the pid.
///
/// It is the datagram socket `/dev/log`. A log daemon that restarts is found again. One that has stopped, or is not there, holds nobody up:
/// what it has no room for is lost, and counted in the first message that it takes again.
///
/// # Errors
///
/// When the process has a log already, or the name is none.
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
        // syslog has its own.
        .with_level(false)
        .without_time()
        .fmt_fields(Fields)
        .log_internal_errors(false)
        .with_writer(Syslog::new(name))
        .finish();
    subscriber.try_init().map_err(twice)
}

/// Whether standard error is a terminal with colours, and nobody has asked for none.
fn has_colours() -> bool {
    let says = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let can = says("TERM").is_some_and(|term| term != "dumb") && says("NO_COLOR").is_none();
    can && io::stderr().is_terminal()
}

/// Standard error, which takes each event as it is.
struct Stderr;

impl Write for Stderr {
    /// Whether it was written is nothing that a program could act upon.
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
