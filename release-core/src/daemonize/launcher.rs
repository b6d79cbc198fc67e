//! The process that was started, while its daemon comes up: the messages between the two, and the
//! launcher's exit status.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::exit::program_name;
use crate::{Error, streams};

/// The daemon provides its service.
const READY: u8 = 1;
/// The daemon failed to start: an exit status and the reason follow.
const FAILED: u8 = 2;
/// The daemon is about to run another program. Its pid follows, 4 bytes, big-endian. The end of the
/// connection means that the program runs.
const EXECUTES: u8 = 3;

/// The daemon's connection to the process that launched it and still waits.
///
/// If dropped without a message, the launcher reports that the daemon ended before it was ready.
///
/// # Examples
///
/// ```no_run
/// use release_core::{Daemon, Error, ErrorKind};
///
/// let detached = Daemon::new().detach()?;
/// match std::net::TcpListener::bind("127.0.0.1:8080") {
///     Ok(_listener) => detached.ready(),
///     Err(error) => detached.fail(&Error::new(ErrorKind::System, error.to_string())),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Detached(Option<UnixStream>);

impl Detached {
    pub(crate) fn new(launcher: UnixStream) -> Self {
        Self(Some(launcher))
    }

    /// Reports that the daemon provides its service: the launcher exits with status 0.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let detached = release_core::Daemon::new().detach()?;
    /// detached.ready();
    /// # Ok::<(), release_core::Error>(())
    /// ```
    pub fn ready(mut self) {
        self.tell(&[READY]);
    }

    /// Reports that the start failed: the launcher prints the reason and exits with status 1.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::{Daemon, Error, ErrorKind};
    ///
    /// let detached = Daemon::new().detach()?;
    /// detached.fail(&Error::new(ErrorKind::Program, "there is nothing to do"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn fail(self, error: &Error) {
        self.fail_with(1, error);
    }

    pub(crate) fn fail_with(mut self, status: u8, error: &Error) {
        self.tell(&[&[FAILED, status], error.report().as_bytes()].concat());
    }

    /// Makes silence mean success from now on.
    pub(crate) fn executes(&mut self) {
        self.tell(&[&[EXECUTES], &std::process::id().to_be_bytes()[..]].concat());
    }

    /// Duplicates the connection, for a failure that comes before the first message.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.as_ref().and_then(|launcher| launcher.try_clone().ok()))
    }

    fn tell(&mut self, words: &[u8]) {
        if let Some(launcher) = &mut self.0 {
            // If the launcher was killed, no process waits; the daemon continues.
            let _ = launcher.write_all(words);
        }
    }
}

/// A message received by the launcher.
pub(crate) enum Word {
    Ready,
    Executes(i32),
    /// An exit status, and the reason.
    Failed(u8, String),
    /// The daemon has ended, or runs another program.
    Nothing,
}

/// Waits for the daemon's next message.
pub(crate) fn hear(daemon: &mut UnixStream) -> Word {
    let mut word = [0];
    match (daemon.read_exact(&mut word), word) {
        (Ok(()), [READY]) => Word::Ready,
        (Ok(()), [EXECUTES]) => {
            let mut number = [0; 4];
            let heard = daemon.read_exact(&mut number);
            heard.map_or(Word::Nothing, |()| Word::Executes(i32::from_be_bytes(number)))
        }
        (Ok(()), _) => {
            let mut rest = Vec::new();
            let _ = daemon.read_to_end(&mut rest);
            let (status, reason) = rest.split_first().unwrap_or((&1, &[]));
            Word::Failed(*status, String::from_utf8_lossy(reason).into_owned())
        }
        (Err(_), _) => Word::Nothing,
    }
}

/// Waits for the outcome of the start. Returns the exit status.
pub(crate) fn await_ready(mut daemon: UnixStream) -> u8 {
    match hear(&mut daemon) {
        Word::Ready => 0,
        Word::Failed(status, reason) => complain(status, &reason),
        _ => complain(1, "the daemon ended before it was ready; its log may say why"),
    }
}

pub(crate) fn complain(status: u8, reason: &str) -> u8 {
    // The other copy is kept for the daemon; standard error is the same here.
    streams::launcher::leave();
    streams::last_words(&format!("{}: {reason}\n", program_name()));
    status
}
