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

/// The controlling terminal. Distinguishes the SIGHUP of a terminal that is gone from the SIGHUP of
/// an operator, which requests a reload.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Whether there was a controlling terminal at the start.
    controls: bool,
    is_noticed: bool,
}

impl Terminal {
    /// Returns the terminal, or `None` if its end has no consequences, as with `nohup`.
    pub(super) fn of_this_process() -> Option<Self> {
        let outlives = is_ignored(Signal::SIGHUP);
        (!outlives).then(|| Self { controls: is_controlled(), is_noticed: false })
    }

    /// Returns whether the terminal was hung up: its last user at the other end is gone.
    pub(super) fn is_gone(&self) -> bool {
        is_hung_up(&io::stdin())
            || is_hung_up(&io::stdout())
            || is_hung_up(&io::stderr())
            || self.controls && !is_controlled()
    }

    /// Returns whether writing to standard error has begun to fail, and true only once. A process
    /// outside of the terminal's foreground may get no signal.
    pub(super) fn has_just_gone(&mut self) -> bool {
        let is_first = !self.is_noticed && is_hung_up(&io::stderr());
        self.is_noticed |= is_first;
        is_first
    }
}

/// Returns whether every call on the file fails from now on. For a file that is no terminal, the
/// error is `ENOTTY`.
fn is_hung_up(file: &impl AsFd) -> bool {
    tcgetattr(file).is_err_and(|error| error == Errno::EIO)
}

fn is_controlled() -> bool {
    OpenOptions::new().read(true).custom_flags(O_NOCTTY | O_NONBLOCK).open("/dev/tty").is_ok()
}
