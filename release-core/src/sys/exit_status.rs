//! The exit status of a process.

use std::fmt;

use nix::sys::signal::Signal;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
                f.write_str(if core { ", core dumped" } else { "" })
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
        assert_eq!(signal(40, false), "signal 40");
        assert_eq!(signal(-1, false), "signal -1");
    }
}
