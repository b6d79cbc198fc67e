//! The signal that tells a worker to stop.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::{Error, ErrorKind};

/// The signal that tells the processes of a group to finish their work and exit: see
/// [`Workers::stop_signal`](crate::Workers::stop_signal).
///
/// # Examples
///
/// ```
/// use release_core::StopSignal;
///
/// assert_eq!("USR2".parse::<StopSignal>()?, StopSignal::Usr2);
/// assert_eq!("sigquit".parse::<StopSignal>()?, StopSignal::Quit);
/// assert_eq!(StopSignal::default().to_string(), "SIGTERM");
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopSignal {
    /// `SIGTERM`, which most programs expect.
    #[default]
    Term,
    /// `SIGHUP`, as in socketmaster.
    Hup,
    /// `SIGINT`.
    Int,
    /// `SIGQUIT`, the graceful stop of nginx and unicorn.
    Quit,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`, as in einhorn.
    Usr2,
    /// `SIGWINCH`.
    Winch,
    /// No signal: the process is informed in another way, or continues until the stop deadline.
    None,
}

/// All names and their signals.
const NAMES: [(&str, StopSignal); 8] = [
    ("TERM", StopSignal::Term),
    ("HUP", StopSignal::Hup),
    ("INT", StopSignal::Int),
    ("QUIT", StopSignal::Quit),
    ("USR1", StopSignal::Usr1),
    ("USR2", StopSignal::Usr2),
    ("WINCH", StopSignal::Winch),
    ("NONE", StopSignal::None),
];

impl StopSignal {
    pub(crate) fn signal(self) -> Option<Signal> {
        Some(match self {
            Self::Term => Signal::SIGTERM,
            Self::Hup => Signal::SIGHUP,
            Self::Int => Signal::SIGINT,
            Self::Quit => Signal::SIGQUIT,
            Self::Usr1 => Signal::SIGUSR1,
            Self::Usr2 => Signal::SIGUSR2,
            Self::Winch => Signal::SIGWINCH,
            Self::None => return None,
        })
    }
}

/// Parses the name in upper or lower case, with or without `SIG`.
impl FromStr for StopSignal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| *signal).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            let message =
                format!("`{}` is no signal to stop by; there are {names}", text.escape_debug());
            Error::new(ErrorKind::Usage, message)
        })
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.signal().map_or("no signal", Signal::as_str))
    }
}
