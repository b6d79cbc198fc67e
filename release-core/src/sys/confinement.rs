//! Restrictions of a process, put in force between fork and exec, or for this process.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::resource::{Resource, setrlimit};

use super::Failed;
use super::landlock::{self, LandlockRules};
use super::seccomp::{self, Instruction};

/// Restrictions of a process, in the form that the kernel takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confinement {
    /// The only capabilities that are left, as a set of bits.
    pub(crate) capabilities: u64,
    pub(crate) rules: Option<LandlockRules>,
    /// A filter of system calls; empty if there is none.
    pub(crate) filter: Vec<Instruction>,
    /// Directories that the process sees as empty directories of its own.
    pub(crate) covered: Vec<CString>,
}

impl Confinement {
    /// Prepares the rules for [`enforce`](Self::enforce), while this process can open all paths.
    /// The file at the descriptor may be executed, too. Allocates nothing.
    pub(crate) fn prepare(&self, executable: Option<RawFd>) -> Result<Option<OwnedFd>, Failed> {
        self.rules.as_ref().map(|rules| rules.create(executable)).transpose()
    }

    /// Puts all but the capabilities in force. Requires no_new_privs. Allocates nothing.
    ///
    /// The filter comes last, because it may forbid the other calls.
    pub(crate) fn enforce(&self, rules: Option<OwnedFd>) -> Result<(), Failed> {
        let failed = |errno| Failed { call: "setrlimit(RLIMIT_CORE)", errno: errno as i32 };
        // 0 forbids only files: a program in `core_pattern` gets the memory of the process nevertheless,
        // but for a limit of 1. That is too small for a file, and not permitted below a limit of 0.
        setrlimit(Resource::RLIMIT_CORE, 1, 1)
            .or_else(|_| setrlimit(Resource::RLIMIT_CORE, 0, 0))
            .map_err(failed)?;
        rules.map_or(Ok(()), |rules| landlock::restrict(rules.as_raw_fd()))?;
        if self.filter.is_empty() { Ok(()) } else { seccomp::apply(&self.filter) }
    }
}

/// The restrictions of a process that the kernel shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) has_filter: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) capabilities: u64,
}

impl InForce {
    /// Reads the restrictions of a process. Returns `None` if it is gone, or without /proc.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// Reads the restrictions of this process.
    pub(crate) fn here() -> Option<Self> {
        i32::try_from(std::process::id()).ok().and_then(Self::of)
    }

    fn parse(status: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(its, value)| (its == name).then(|| value.trim()))
        };
        Some(Self {
            has_filter: value("Seccomp")? == "2",
            no_new_privileges: value("NoNewPrivs")? == "1",
            capabilities: u64::from_str_radix(value("CapPrm")?, 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restrictions_of_a_process_are_read() {
        let status = "Name:\tSeccomp: 0\nCapPrm:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n\
            Seccomp_filters:\t1\n";
        let expected = InForce { has_filter: true, no_new_privileges: true, capabilities: 1 << 10 };
        assert_eq!(InForce::parse(status), Some(expected));
        assert_eq!(InForce::parse("Name:\tx\n"), None);
        assert!(InForce::of(std::process::id().try_into().unwrap()).is_some());
    }
}
