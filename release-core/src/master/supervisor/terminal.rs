//! The terminal that a service in the foreground was started from.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::sys::signal::Signal;
use nix::sys::termios::tcgetattr;

use crate::sys::signal::is_ignored;

/// What tells a terminal that has gone from an operator who sends SIGHUP for a reload: the signal is
/// the same.
#[derive(Debug)]
pub(super) struct Terminal {
    /// There was a controlling terminal in the beginning.
    controls: bool,
    is_noticed: bool,
}

impl Terminal {
    /// `None` when it may go without consequences, as `nohup` asks for.
    pub(super) fn of_this_process() -> Option<Self> {
        let outlives = is_ignored(Signal::SIGHUP);
        (!outlives).then(|| Self { controls: is_controlled(), is_noticed: false })
    }

    /// Whether the terminal was hung up: its last user at the other end is gone.
    pub(super) fn is_gone(&self) -> bool {
        is_hung_up(&io::stdin())
            || is_hung_up(&io::stdout())
            || is_hung_up(&io::stderr())
            || self.controls && !is_controlled()
    }

    /// Whether what is written to standard error has begun to fail. True once: no signal may tell a
    /// process that is not in the terminal's foreground.
    pub(super) fn has_just_gone(&mut self) -> bool {
        let is_first = !self.is_noticed && is_hung_up(&io::stderr());
        self.is_noticed |= is_first;
        is_first
    }
}

/// Whether every call on the file fails from now on. Of a file that is no terminal the answer is
/// `ENOTTY`.
fn is_hung_up(file: &impl AsFd) -> bool {
    tcgetattr(file).is_err_and(|error| error == Errno::EIO)
}

fn is_controlled() -> bool {
    OpenOptions::new().read(true).custom_flags(O_NOCTTY | O_NONBLOCK).open("/dev/tty").is_ok()
}
