//! The exit status of a process.

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::calls;

/// What a reader does who is not told which call it was.
const UNKNOWN_CALL: &str = ", a forbidden system call: the kernel's log has its number (`syscall=`); without \
    `kill_on_violation` (`--sandbox-kill`) it fails with EPERM, which `strace -f` shows";

/// How a process ended: by an exit or by a signal.
///
/// # Examples
///
/// ```
/// use release_core::supervise::ExitStatus;
///
/// assert_eq!(ExitStatus::Code(3).to_string(), "exit status 3");
/// let killed = ExitStatus::Signal { number: 9, core: false };
/// assert_eq!(killed.to_string(), "signal 9 (SIGKILL)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitStatus {
    /// The process exited with this status.
    Code(i32),
    /// The process was terminated by a signal.
    Signal {
        /// Signal number.
        number: i32,
        /// Whether the kernel wrote a core dump.
        core: bool,
    },
    /// The process was killed with `SIGSYS` for a system call that its
    /// [`Sandbox`](crate::Sandbox::kill_on_violation) forbids, and the kernel's log names the call.
    ForbiddenCall {
        /// Number of the system call.
        number: u32,
    },
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(status) => write!(f, "exit status {status}"),
            Self::Signal { number, core } => {
                write!(f, "signal {number}")?;
                // Real-time signals have a number but no name.
                if let Ok(signal) = Signal::try_from(number) {
                    write!(f, " ({signal})")?;
                }
                f.write_str(if core { ", core dumped" } else { "" })?;
                f.write_str(if number == libc::SIGSYS { UNKNOWN_CALL } else { "" })
            }
            Self::ForbiddenCall { number } => {
                write!(f, "signal {} (SIGSYS), the forbidden system call {number}", libc::SIGSYS)?;
                calls::name(number).map_or(Ok(()), |name| write!(f, " ({name})"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ExitStatus;

    #[test]
    fn exits_are_named_as_the_system_names_them() {
        let signal = |number, core| ExitStatus::Signal { number, core }.to_string();
        assert_eq!(ExitStatus::Code(0).to_string(), "exit status 0");
        assert_eq!(signal(15, false), "signal 15 (SIGTERM)");
        assert_eq!(signal(11, true), "signal 11 (SIGSEGV), core dumped");
        let unknown = signal(libc::SIGSYS, false);
        assert!(unknown.starts_with("signal 31 (SIGSYS), a forbidden system call: "), "{unknown}");
        let unshare = u32::try_from(libc::SYS_unshare).unwrap();
        assert_eq!(
            ExitStatus::ForbiddenCall { number: unshare }.to_string(),
            format!("signal 31 (SIGSYS), the forbidden system call {unshare} (unshare)")
        );
        assert_eq!(signal(40, false), "signal 40");
        assert_eq!(signal(-1, false), "signal -1");
    }
}
