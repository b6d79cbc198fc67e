//! The signals that an operator may send to workers.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::{Error, ErrorKind};

/// A signal for running workers: see [`MasterHandle::signal`](crate::MasterHandle::signal).
///
/// There are only signals that programs use to be told something. A signal that ends or stops a process
/// is not among them: [`MasterHandle::restart`](crate::MasterHandle::restart) replaces a worker without
/// losing a request.
///
/// # Examples
///
/// ```
/// use release_core::WorkerSignal;
///
/// assert_eq!("USR1".parse::<WorkerSignal>()?, WorkerSignal::Usr1);
/// assert_eq!("sigwinch".parse::<WorkerSignal>()?, WorkerSignal::Winch);
/// assert_eq!(WorkerSignal::Hup.to_string(), "HUP");
/// let refused = "KILL".parse::<WorkerSignal>().unwrap_err();
/// assert!(refused.to_string().contains("restart"));
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerSignal {
    /// `SIGHUP`, by which many programs read their configuration again.
    Hup,
    /// `SIGQUIT`, by which a Java virtual machine prints its threads. Most other programs end.
    Quit,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`.
    Usr2,
    /// `SIGWINCH`.
    Winch,
    /// `SIGTTIN`, by which servers with processes of their own start one more.
    Ttin,
    /// `SIGTTOU`, by which they stop one.
    Ttou,
}

const NAMES: [(&str, WorkerSignal, Signal); 7] = [
    ("HUP", WorkerSignal::Hup, Signal::SIGHUP),
    ("QUIT", WorkerSignal::Quit, Signal::SIGQUIT),
    ("USR1", WorkerSignal::Usr1, Signal::SIGUSR1),
    ("USR2", WorkerSignal::Usr2, Signal::SIGUSR2),
    ("WINCH", WorkerSignal::Winch, Signal::SIGWINCH),
    ("TTIN", WorkerSignal::Ttin, Signal::SIGTTIN),
    ("TTOU", WorkerSignal::Ttou, Signal::SIGTTOU),
];

impl WorkerSignal {
    pub(crate) fn signal(self) -> Signal {
        let found = NAMES.iter().find(|(_, signal, _)| *signal == self);
        found.map_or(Signal::SIGWINCH, |(_, _, signal)| *signal)
    }
}

/// Parses the name in upper or lower case, with or without `SIG`.
impl FromStr for WorkerSignal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = NAMES.iter().find(|(known, ..)| *known == name);
        found.map(|(_, signal, _)| *signal).ok_or_else(|| {
            let names = NAMES.map(|(name, ..)| name).join(", ");
            let text: String = text.chars().take(20).collect();
            let message = match name {
                "KILL" | "STOP" | "TERM" | "INT" | "ABRT" => format!(
                    "{name} ends or stops a worker: `restart ID` replaces one without a lost \
                     request; signals for workers are {names}"
                ),
                _ => {
                    format!("`{}` is no signal for workers; there are {names}", text.escape_debug())
                }
            };
            Error::new(ErrorKind::Usage, message)
        })
    }
}

/// Formats the name without `SIG`.
impl fmt::Display for WorkerSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.signal().as_str().trim_start_matches("SIG"))
    }
}

/// The workers that receive a [`WorkerSignal`].
///
/// # Examples
///
/// ```
/// use release_core::Recipients;
///
/// assert_eq!("all".parse(), Ok(Recipients::All));
/// assert_eq!("3".parse(), Ok(Recipients::Worker(3)));
/// assert_eq!("web".parse(), Ok(Recipients::Group("web".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recipients {
    /// All workers.
    All,
    /// The workers of the group of this name.
    Group(String),
    /// The worker of this id.
    Worker(u32),
}

/// Parses `all`, an id, or any other text as the name of a group.
impl FromStr for Recipients {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match (text, text.parse()) {
            ("all", _) => Self::All,
            (_, Ok(id)) => Self::Worker(id),
            (name, Err(_)) => Self::Group(name.to_owned()),
        })
    }
}

impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::Group(name) => f.pad(name),
            Self::Worker(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_has_a_name() {
        for (name, signal, number) in NAMES {
            assert_eq!((signal.to_string(), signal.signal()), (name.to_owned(), number));
            assert_eq!(name.parse::<WorkerSignal>().unwrap(), signal);
            assert_eq!(number.as_str().to_lowercase().parse::<WorkerSignal>().unwrap(), signal);
        }
        for text in ["", "KILL", "SIGSTOP", "9", "\u{1b}", "USR3"] {
            let refused = text.parse::<WorkerSignal>().unwrap_err().to_string();
            assert!(refused.contains("USR1") && !refused.contains('\u{1b}'), "{refused}");
        }
    }
}
