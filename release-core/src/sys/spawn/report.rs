//! The exchange with a new process until it runs its program.

use crate::sys::Failed;
use crate::sys::landlock::OPENING;
use crate::sys::mounts::{PROPAGATION, TMPFS, UNSHARE};
use crate::sys::resources::{FORBIDDEN_PROCESSOR, OPEN_FILES};

/// Length of a child's report: the call's index and its errno.
pub(crate) const REPORT: usize = 5;

/// The new process has its identity, and asks whether it can be ended: a program that could not be
/// stopped is never run.
pub(crate) const ASKS: u8 = u8::MAX;

/// The answer that lets the program run.
pub(crate) const GOES_ON: u8 = 1;

/// The calls that can fail in the child. Their index is sent through the error pipe.
pub(super) const CALLS: [&str; 37] = [
    "dup2",
    "fcntl(F_DUPFD)",
    "chdir",
    "chroot",
    "close_range",
    "sched_setaffinity",
    "sched_getaffinity",
    FORBIDDEN_PROCESSOR,
    "setpriority",
    OPEN_FILES,
    "setrlimit(RLIMIT_CORE)",
    "setrlimit(RLIMIT_AS)",
    "setrlimit(RLIMIT_NPROC)",
    "setrlimit(RLIMIT_FSIZE)",
    "setgroups",
    "setresgid",
    "setresuid",
    "capget",
    "capset",
    "prctl(PR_CAPBSET_DROP)",
    "prctl(PR_CAP_AMBIENT)",
    "prctl(PR_SET_NO_NEW_PRIVS)",
    "prctl(PR_SET_KEEPCAPS)",
    "prctl(PR_SET_PDEATHSIG)",
    "getppid",
    "setsid",
    UNSHARE,
    PROPAGATION,
    TMPFS,
    "waiting for the master",
    "landlock_create_ruleset",
    OPENING,
    "landlock_add_rule",
    "landlock_restrict_self",
    "seccomp",
    "execve",
    "verifying that privileges are gone",
];

/// Returns the report of a child that could not run its program, see [`SpawnedChild::report`](super::SpawnedChild::report).
pub(crate) fn decode(report: [u8; REPORT]) -> Failed {
    let [call, errno @ ..] = report;
    let call = CALLS.get(usize::from(call)).unwrap_or(&CALLS[CALLS.len() - 1]);
    Failed { call, errno: i32::from_ne_bytes(errno) }
}
