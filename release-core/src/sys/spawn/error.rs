//! The reason why a process could not be started.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::sys::Failed;
use crate::sys::landlock::OPENING;
use crate::sys::mounts::{PROPAGATION, TMPFS, UNSHARE};
use crate::sys::resources::in_words;

/// The reason why a process could not be started.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// In this process: not enough descriptors, memory or processes.
    Here(&'static str, io::Error),
    /// In the new process, before it ran its program.
    There(Failed),
    /// The new process made no progress for so long that it was killed.
    Stuck,
    /// This process has no right to end the new process, which has not run its program.
    Endless(io::Error),
}

impl SpawnError {
    /// Returns the error number of the refused call, in either process.
    pub(crate) fn errno(&self) -> Option<Errno> {
        let number = match self {
            Self::Here(_, error) => error.raw_os_error(),
            Self::There(failed) => Some(failed.errno),
            Self::Stuck | Self::Endless(_) => None,
        };
        number.map(Errno::from_raw)
    }

    /// Returns the error of execve(2) for the program's file.
    pub(crate) fn refusal(&self) -> Option<Errno> {
        match self {
            Self::There(Failed { call: "execve", errno }) => Some(Errno::from_raw(*errno)),
            _ => None,
        }
    }

    /// Returns whether the working directory could not be entered.
    pub(crate) fn is_of_directory(&self) -> bool {
        matches!(self, Self::There(Failed { call: "chdir", .. }))
    }

    /// Returns whether a path of the sandbox could not be opened.
    pub(crate) fn is_of_sandbox(&self) -> bool {
        matches!(self, Self::There(Failed { call: OPENING, .. }))
    }

    /// Returns whether a retry would fail in the same way: the kernel, or the container around this
    /// process, does not support or does not allow a required operation.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Here("pidfd_open", error) if error.raw_os_error() == Some(libc::EPERM) => true,
            Self::Here(_, error) => error.raw_os_error() == Some(libc::ENOSYS),
            // The executable may be another file next time.
            Self::There(failed) => failed.errno == libc::ENOSYS && failed.call != "execve",
            Self::Stuck => false,
            Self::Endless(_) => true,
        }
    }

    /// Explains the call that the kernel has refused.
    fn advice(&self) -> &'static str {
        let (call, errno) = match self {
            Self::Here(call, error) => (*call, error.raw_os_error().unwrap_or_default()),
            Self::There(failed) => (failed.call, failed.errno),
            Self::Stuck | Self::Endless(_) => return "",
        };
        match (call, errno) {
            (_, libc::ENOSYS) => {
                ": the kernel or the container around it does not have this call, without which no \
                 worker can be started (Linux 5.9 has it)"
            }
            ("pidfd_open", libc::EPERM) => {
                ": what confines this container (seccomp) has to allow the call, without which no \
                 worker can be watched"
            }
            (UNSHARE | PROPAGATION | TMPFS, libc::EPERM | libc::EACCES) => {
                ": a private /tmp (`private_tmp`, `--private-tmp`) needs CAP_SYS_ADMIN, and what \
                 confines this container (seccomp, AppArmor) has to allow the call"
            }
            ("setgroups" | "setresgid" | "setresuid", libc::EPERM) => {
                ": to give workers another user, the master needs the capabilities CAP_SETUID and \
                 CAP_SETGID"
            }
            _ => "",
        }
    }
}

/// The rights missing in a master that cannot end a process.
pub(crate) const RIGHT_TO_END: &str = "the master may not end its workers: it needs the capability \
    CAP_KILL to end those of other users (`--cap-add=KILL`, `CapabilityBoundingSet=`), and the system \
    call pidfd_send_signal";

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(what, error) => write!(f, "{what}: {}{}", in_words(error), self.advice()),
            Self::There(failed) => write!(f, "{failed}{}", self.advice()),
            Self::Stuck => f.write_str("the new process was stopped before it ran its program"),
            Self::Endless(error) => write!(f, "{RIGHT_TO_END}: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// Returns a conversion of the error of this call.
pub(super) fn here(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |error| SpawnError::Here(what, error)
}
