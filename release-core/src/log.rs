//! Log destinations that are ready to use, for master and worker alike (row R21).
//!
//! The library itself only emits `tracing` events, with fields such as `worker` and `pid`; a
//! program that has a subscriber of its own needs nothing of this module.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{Error, ErrorKind};

mod syslog;

use syslog::Syslog;

/// Sends the log to standard error, a line an event, from level `info` on.
///
/// A reader that is slow or has stopped holds nobody up: lines that it has no room for are lost, and
/// their number is the next line.
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
        .with_ansi(io::stderr().is_terminal())
        // It would say on standard error that it cannot write there, and panic because it cannot.
        .log_internal_errors(false)
        .with_writer(|| Waitless(io::stderr().lock(), &LOST))
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
        .log_internal_errors(false)
        .with_writer(Syslog::new(name))
        .finish();
    subscriber.try_init().map_err(twice)
}

/// How many lines standard error had no room for.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How long a process that ends waits for the reader of its last words, in milliseconds.
const LAST_WORDS_TIME: u8 = 250;

/// The last line of a process, which ends whether it is read or not.
pub(crate) fn last_words(line: &str) {
    let _ = write_within(LAST_WORDS_TIME.into(), &mut io::stderr().lock(), line.as_bytes());
}

fn write_within(
    patience: PollTimeout,
    file: &mut (impl Write + AsFd),
    text: &[u8],
) -> io::Result<()> {
    // A pipe with room has it for so much at least.
    text.chunks(PIPE_BUF).try_for_each(|part| {
        let mut watched = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut watched, patience)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => file.write_all(part),
        }
    })
}

/// A file that is never waited for.
struct Waitless<'a, W>(W, &'a AtomicU64);

impl<W: Write + AsFd> Waitless<'_, W> {
    fn write_now(&mut self, text: &[u8]) -> io::Result<()> {
        write_within(PollTimeout::ZERO, &mut self.0, text)
    }
}

impl<W: Write + AsFd> Write for Waitless<'_, W> {
    /// A line. Whether it was written is nothing that a program could act upon.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lost = self.1.swap(0, Ordering::Relaxed);
        if lost > 0 && self.write_now(format!("{lost} lines are lost\n").as_bytes()).is_ok() {
            lost = 0;
        }
        if lost > 0 || self.write_now(line).is_err() {
            self.1.fetch_add(lost + 1, Ordering::Relaxed);
        }
        Ok(line.len())
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
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_has_stopped_holds_nobody_up() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let lost = AtomicU64::new(0);
        let mut log = Waitless(&mut writer, &lost);
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..100 {
            assert_eq!(log.write(&line).unwrap(), 1000);
        }
        let missing = lost.load(Ordering::Relaxed);
        assert!((30..100).contains(&missing), "{missing}");
        let mut read = vec![0; 65_536];
        let count = reader.read(&mut read).unwrap();
        assert_eq!(count % 1000, 0, "whole lines");
        log.write_all(b"more\n").unwrap();
        // Longer than what a pipe takes at once, and than it takes at all.
        log.write_all(&[b'y'; 100_000]).unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with(&format!("{missing} lines are lost\nmore\nyyy")), "{rest:.50}");
    }
}
