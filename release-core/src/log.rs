//! Ready-to-use log destinations, for masters and workers.
//!
//! The library only emits `tracing` events, with fields such as `worker` and `pid`. If your program
//! has its own subscriber, you do not need this module. A master or worker without any subscriber
//! writes the library's warnings and errors to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::{SubscriberBuilder, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Error, ErrorKind, streams};

mod fields;
mod syslog;

use fields::Fields;
use syslog::Syslog;

/// Changes the levels of the log of this process.
type SetLevels = Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>;

static CHANGE: OnceLock<SetLevels> = OnceLock::new();

/// Sends the log to standard error, one line per event.
///
/// The environment variable `RUST_LOG` sets the levels, in the format of [`set_levels`]. Without it,
/// or if it cannot be understood, the level is `info`.
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
    start(lines().with_max_level(LevelFilter::TRACE).finish())
}

/// Sends the log to syslog with the daemon facility, under the given name and with the pid.
///
/// `RUST_LOG` sets the levels, as for [`stderr`].
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
        .with_max_level(LevelFilter::TRACE)
        .with_target(false)
        .with_ansi(false)
        // syslog adds its own.
        .with_level(false)
        .without_time()
        .fmt_fields(Fields)
        .log_internal_errors(false)
        .with_writer(Syslog::new(name))
        .finish();
    start(subscriber)
}

/// Sets the levels of the log that [`stderr`] or [`syslog`] has started, at any time. They replace the
/// levels in `RUST_LOG`.
///
/// The list contains a level (`off`, `error`, `warn`, `info`, `debug` or `trace`), levels of single
/// targets, such as `hyper=warn`, or both, separated by commas. A target is the beginning of the path
/// of a module. Without a level of its own, the rest of the program has `info`; with `off` the log
/// contains only the targets in the list.
///
/// # Errors
///
/// Returns an error, and changes nothing, if the list cannot be understood, or if this module has not
/// started the log.
///
/// # Examples
///
/// ```
/// use release_core::log;
///
/// log::stderr()?;
/// // As a default, which the administrator can replace:
/// if std::env::var_os("RUST_LOG").is_none() {
///     log::set_levels("warn")?;
/// }
/// // On request, while the program runs:
/// log::set_levels("info,release_core::net=debug")?;
/// # use tracing::{Level, enabled};
/// # assert!(enabled!(target: "release_core::net", Level::DEBUG) && enabled!(Level::INFO));
/// # assert!(!enabled!(target: "release_core::ipc", Level::DEBUG));
/// assert!(log::set_levels("loud").is_err());
/// # Ok::<(), release_core::Error>(())
/// ```
#[doc(alias = "RUST_LOG")]
pub fn set_levels(levels: &str) -> Result<(), Error> {
    let levels = targets(levels)?;
    let no_log = || Error::new(ErrorKind::Usage, "`log` has not started the log of this process");
    let changed = CHANGE.get().ok_or_else(no_log)?(levels);
    changed.map_err(|error| Error::new(ErrorKind::Usage, "the log has ended").caused_by(error))
}

/// Checks a list of levels, for a command line or a configuration file, without changing the log.
///
/// # Errors
///
/// Returns an error with the wrong word if [`set_levels`] would not understand the list.
///
/// # Examples
///
/// ```
/// use release_core::log;
///
/// assert!(log::check_levels("warn,hyper=debug").is_ok());
/// assert!(log::check_levels("loud").unwrap_err().to_string().starts_with("`loud` is not a level"));
/// ```
pub fn check_levels(levels: &str) -> Result<(), Error> {
    targets(levels).map(drop)
}

/// Starts the log with the levels of the environment.
fn start(subscriber: impl Subscriber + Send + Sync) -> Result<(), Error> {
    let given = std::env::var("RUST_LOG").ok().filter(|levels| !levels.trim().is_empty());
    let (levels, wrong) = match given.as_deref().map(targets) {
        Some(Ok(levels)) => (levels, None),
        Some(Err(error)) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
        None => (Targets::new().with_default(LevelFilter::INFO), None),
    };
    let (levels, handle) = reload::Layer::new(levels);
    subscriber.with(levels).try_init().map_err(twice)?;
    // Only one log can start.
    let _ = CHANGE.set(Box::new(move |levels| handle.reload(levels)));
    if let Some(error) = wrong {
        log_warning!(reason = error.report(), "RUST_LOG is ignored");
    }
    Ok(())
}

/// Parses a list of levels.
fn targets(list: &str) -> Result<Targets, Error> {
    let level = |name: &str| {
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        let name = name.trim().to_ascii_lowercase();
        name.parse().ok().filter(|_: &LevelFilter| known.contains(&&*name)).ok_or_else(|| {
            let known = known.join(", ");
            let message = format!("`{name}` is not a level; write one of {known}, or TARGET=LEVEL");
            Error::new(ErrorKind::Usage, message)
        })
    };
    let begin = Targets::new().with_default(LevelFilter::INFO);
    list.split(',').try_fold(begin, |all, item| match item.split_once('=') {
        Some((target, name)) => Ok(all.with_target(target.trim(), level(name)?)),
        None => Ok(all.with_default(level(item)?)),
    })
}

/// Returns the log of a program without its own.
pub(crate) fn fallback() -> Dispatch {
    lines().with_max_level(LevelFilter::WARN).finish().into()
}

/// Returns the format and destination of [`stderr`].
fn lines() -> SubscriberBuilder<Fields, format::Format, LevelFilter, fn() -> Stderr> {
    fmt()
        .with_target(false)
        .with_ansi(has_colours())
        .fmt_fields(Fields)
        // Otherwise it would report to standard error that it cannot write there, and panic because
        // it cannot.
        .log_internal_errors(false)
        .with_writer(|| Stderr)
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_list_of_levels_is_understood() {
        let all = targets("Warn, hyper = trace,a::b=off").expect("a list");
        assert!(
            all.would_enable("other", &Level::WARN) && !all.would_enable("other", &Level::INFO)
        );
        assert!(all.would_enable("hyper::client", &Level::TRACE));
        assert!(!all.would_enable("a::b::c", &Level::ERROR));
        let some = targets("hyper=error").expect("a list");
        assert!(some.would_enable("other", &Level::INFO));
        assert!(
            !some.would_enable("other", &Level::DEBUG) && !some.would_enable("hyper", &Level::WARN)
        );
    }

    #[test]
    fn a_wrong_list_is_refused_with_the_wrong_word() {
        for (list, wrong) in
            [("debgu", "debgu"), ("info,a=4", "4"), ("", ""), ("a=", ""), ("warn,", "")]
        {
            let message = targets(list).expect_err(list).report();
            assert!(message.starts_with(&format!("`{wrong}` is not a level")), "{message}");
        }
    }
}
