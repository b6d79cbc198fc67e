//! The signals that a master obeys, and the action of each.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::{Error, ErrorKind};

/// A signal that a master can obey: see [`Master::signal`](crate::Master::signal).
///
/// # Examples
///
/// ```
/// use release_core::MasterSignal;
///
/// assert_eq!("USR2".parse::<MasterSignal>()?, MasterSignal::Usr2);
/// assert_eq!("sigquit".parse::<MasterSignal>()?, MasterSignal::Quit);
/// assert_eq!(MasterSignal::Hup.to_string(), "HUP");
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MasterSignal {
    /// `SIGTERM`.
    Term,
    /// `SIGINT`, which Ctrl-C sends.
    Int,
    /// `SIGQUIT`.
    Quit,
    /// `SIGHUP`. Whatever its action is, a master in the foreground stops when its terminal has gone.
    Hup,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`.
    Usr2,
    /// `SIGTTIN`, sent by a process: the kernel's own on a terminal has no effect.
    Ttin,
    /// `SIGTTOU`, like [`Ttin`](Self::Ttin).
    Ttou,
    /// `SIGWINCH`, sent by a process: a terminal that changes its size has no effect.
    Winch,
}

/// The effect of a signal on a master: see [`Master::signal`](crate::Master::signal).
///
/// # Examples
///
/// ```
/// use release_core::SignalAction;
///
/// assert_eq!("stop-now".parse::<SignalAction>()?, SignalAction::StopNow);
/// assert_eq!(SignalAction::ReopenLogs.to_string(), "reopen");
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalAction {
    /// Replaces all workers: [`MasterHandle::reload`](crate::MasterHandle::reload). Parsed from
    /// `reload`.
    Reload,
    /// Opens the log files again: [`MasterHandle::reopen_logs`](crate::MasterHandle::reopen_logs).
    /// Like [`Ignore`](Self::Ignore) in a master without log files. Parsed from `reopen`.
    ReopenLogs,
    /// Upgrades to the new version of the program:
    /// [`MasterHandle::upgrade`](crate::MasterHandle::upgrade). Parsed from `upgrade`.
    Upgrade,
    /// Stops in order; a second signal of this kind, at least a second later, stops at once. Parsed
    /// from `stop`.
    Stop,
    /// Stops at once: the workers are killed. Parsed from `stop-now`.
    StopNow,
    /// Starts one more worker of the first group. Parsed from `add-worker`.
    AddWorker,
    /// Stops one worker of the first group, but not its last one. Parsed from `remove-worker`.
    RemoveWorker,
    /// Leaves the signal to your program. Without a handler of its own, the signal is ignored. Parsed
    /// from `ignore`.
    Ignore,
}

/// All signals that can have an action, by their names.
const SIGNALS: [(&str, MasterSignal, Signal); 9] = [
    ("TERM", MasterSignal::Term, Signal::SIGTERM),
    ("INT", MasterSignal::Int, Signal::SIGINT),
    ("QUIT", MasterSignal::Quit, Signal::SIGQUIT),
    ("HUP", MasterSignal::Hup, Signal::SIGHUP),
    ("USR1", MasterSignal::Usr1, Signal::SIGUSR1),
    ("USR2", MasterSignal::Usr2, Signal::SIGUSR2),
    ("TTIN", MasterSignal::Ttin, Signal::SIGTTIN),
    ("TTOU", MasterSignal::Ttou, Signal::SIGTTOU),
    ("WINCH", MasterSignal::Winch, Signal::SIGWINCH),
];

/// All actions, by their names.
const ACTIONS: [(&str, SignalAction); 8] = [
    ("reload", SignalAction::Reload),
    ("reopen", SignalAction::ReopenLogs),
    ("upgrade", SignalAction::Upgrade),
    ("stop", SignalAction::Stop),
    ("stop-now", SignalAction::StopNow),
    ("add-worker", SignalAction::AddWorker),
    ("remove-worker", SignalAction::RemoveWorker),
    ("ignore", SignalAction::Ignore),
];

impl SignalAction {
    /// Returns whether the signal requests a stop.
    pub(crate) fn is_stop(self) -> bool {
        matches!(self, Self::Stop | Self::StopNow)
    }
}

/// Parses the name in upper or lower case, with or without `SIG`.
impl FromStr for MasterSignal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = SIGNALS.iter().find(|(known, ..)| *known == name);
        found.map(|(_, signal, _)| *signal).ok_or_else(|| {
            let names = SIGNALS.map(|(name, ..)| name).join(", ");
            let text = text.escape_debug();
            let message = format!("`{text}` is no signal for a master; there are {names}");
            Error::new(ErrorKind::Usage, message)
        })
    }
}

impl fmt::Display for MasterSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SIGNALS.iter().find(|(_, signal, _)| signal == self);
        f.pad(name.map_or("", |(name, ..)| name))
    }
}

impl FromStr for SignalAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = ACTIONS.iter().find(|(known, _)| *known == text);
        found.map(|(_, action)| *action).ok_or_else(|| {
            let names = ACTIONS.map(|(name, _)| name).join(", ");
            let text = text.escape_debug();
            let message = format!("`{text}` is no action of a signal; there are {names}");
            Error::new(ErrorKind::Usage, message)
        })
    }
}

impl fmt::Display for SignalAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ACTIONS.iter().find(|(_, action)| action == self);
        f.pad(name.map_or("", |(name, _)| name))
    }
}

/// The action of each signal.
#[derive(Clone, Debug)]
pub(crate) struct SignalActions(Vec<(MasterSignal, SignalAction)>);

/// As in nginx, unicorn and gunicorn.
impl Default for SignalActions {
    fn default() -> Self {
        Self(vec![
            (MasterSignal::Term, SignalAction::Stop),
            (MasterSignal::Int, SignalAction::Stop),
            (MasterSignal::Quit, SignalAction::StopNow),
            (MasterSignal::Hup, SignalAction::Reload),
            (MasterSignal::Usr1, SignalAction::ReopenLogs),
            (MasterSignal::Usr2, SignalAction::Upgrade),
            (MasterSignal::Ttin, SignalAction::AddWorker),
            (MasterSignal::Ttou, SignalAction::RemoveWorker),
        ])
    }
}

impl SignalActions {
    pub(crate) fn set(&mut self, signal: MasterSignal, action: SignalAction) {
        self.0.retain(|(known, _)| *known != signal);
        self.0.push((signal, action));
    }

    pub(crate) fn of(&self, signal: Signal) -> SignalAction {
        let known = SIGNALS.iter().find(|(.., number)| *number == signal);
        let set = known.and_then(|(_, known, _)| self.0.iter().find(|(set, _)| set == known));
        set.map_or(SignalAction::Ignore, |(_, action)| *action)
    }

    /// Returns the signals to catch, and the signals to ignore, in a master with or without log
    /// files.
    ///
    /// SIGHUP is caught whatever its action is: the kernel sends it when the terminal is gone, and a
    /// later version of the program must not take it for one that `nohup` has ignored.
    pub(crate) fn split(&self, has_logs: bool) -> (Vec<Signal>, Vec<Signal>) {
        SIGNALS.iter().map(|(.., signal)| *signal).partition(|signal| match self.of(*signal) {
            _ if *signal == Signal::SIGHUP => true,
            SignalAction::Ignore => false,
            SignalAction::ReopenLogs => has_logs,
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for (name, signal, _) in SIGNALS {
            assert_eq!(
                (signal.to_string(), name.parse().ok()),
                (name.to_owned(), Some(signal)),
                "{name}"
            );
        }
        for (name, action) in ACTIONS {
            assert_eq!(
                (action.to_string(), name.parse().ok()),
                (name.to_owned(), Some(action)),
                "{name}"
            );
        }
        let unknown = "KILL".parse::<MasterSignal>().unwrap_err().to_string();
        assert!(
            unknown.starts_with("`KILL` is no signal for a master; there are TERM,"),
            "{unknown}"
        );
        assert!("Reload".parse::<SignalAction>().is_err());
    }

    #[test]
    fn a_signal_has_the_action_that_was_set_last() {
        let mut actions = SignalActions::default();
        assert_eq!(actions.of(Signal::SIGUSR2), SignalAction::Upgrade);
        assert_eq!(actions.of(Signal::SIGWINCH), SignalAction::Ignore);
        assert_eq!(actions.of(Signal::SIGSEGV), SignalAction::Ignore);
        actions.set(MasterSignal::Usr2, SignalAction::Reload);
        actions.set(MasterSignal::Usr2, SignalAction::Stop);
        assert_eq!(actions.of(Signal::SIGUSR2), SignalAction::Stop);
    }

    #[test]
    fn sighup_is_caught_whatever_its_action_is() {
        for (_, action) in ACTIONS {
            let mut actions = SignalActions::default();
            actions.set(MasterSignal::Hup, action);
            for has_logs in [false, true] {
                let (caught, ignored) = actions.split(has_logs);
                assert!(caught.contains(&Signal::SIGHUP), "{action}");
                assert!(!ignored.contains(&Signal::SIGHUP), "{action}");
            }
        }
    }

    #[test]
    fn without_log_files_nothing_opens_them() {
        let actions = SignalActions::default();
        let (caught, ignored) = actions.split(false);
        assert_eq!(ignored, [Signal::SIGUSR1, Signal::SIGWINCH]);
        assert_eq!(caught.len() + ignored.len(), SIGNALS.len());
        let (caught, ignored) = actions.split(true);
        assert!(caught.contains(&Signal::SIGUSR1));
        assert_eq!(ignored, [Signal::SIGWINCH]);
    }
}
