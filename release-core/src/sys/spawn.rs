//! Starts a worker: fork and exec, with all preparations before the fork.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

use super::claimed::Claimed;
use super::creds::Credentials;
use super::process::exit_now;
use super::resources::in_words;
use super::resources::{FORBIDDEN_PROCESSOR, OPEN_FILES, Resources};
use super::{Failed, fds, pidfd};

mod prepared;

use prepared::Prepared;

/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_PASSED: RawFd = 3;

/// The settings of a new process.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: CString,
    /// An executable that is run regardless of the file at the path of `program`.
    pub(crate) image: Option<Arc<OwnedFd>>,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`. The environment of the new process contains only these
    pub(crate) environment: Vec<CString>,
    /// and its own pid under these names.
    pub(crate) own_pid: Vec<&'static str>,
    pub(crate) resources: Resources,
    /// Another root directory.
    pub(crate) root: Option<CString>,
    /// Another working directory, in that.
    pub(crate) directory: Option<CString>,
    pub(crate) identity: Identity,
}

/// The identity of a new process.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The same as this process, with all its rights.
    Same,
    /// The same user, without capabilities: any that a master other than root was given are for the
    /// master only.
    Powerless,
    Other(Credentials),
}

impl Identity {
    /// Returns the account of another user.
    pub(crate) fn account(&self) -> Option<&str> {
        match self {
            Self::Other(credentials) => Some(&credentials.name),
            Self::Same | Self::Powerless => None,
        }
    }
}

/// A process that is about to run its program.
///
/// The master does not wait for that: as soon as the child has another user, other processes of
/// that user can stop it, and would stop the master with it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Claimed,
    pub(crate) pidfd: OwnedFd,
    /// A socket that closes when the program runs, or reports an earlier failure in [`REPORT`]
    /// bytes. It first sends [`ASKS`]. The program is run only after the answer [`GOES_ON`].
    pub(crate) report: OwnedFd,
}

/// Length of a child's report: the call's index and its errno.
pub(crate) const REPORT: usize = 5;

/// The new process has its identity, and asks whether it can be ended: a program that could not be
/// stopped is never run.
pub(crate) const ASKS: u8 = u8::MAX;

/// The answer that lets the program run.
pub(crate) const GOES_ON: u8 = 1;

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

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(what, error) => write!(f, "{what}: {}{}", in_words(error), self.advice()),
            Self::There(failed) => write!(f, "{failed}{}", self.advice()),
            Self::Stuck => f.write_str("the new process was stopped before it ran its program"),
            Self::Endless(error) => write!(f, "{RIGHT_TO_END}: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// The calls that can fail in the child. Their index is sent through the error pipe.
const CALLS: [&str; 26] = [
    "dup2",
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
    "capset",
    "prctl(PR_CAPBSET_DROP)",
    "prctl(PR_CAP_AMBIENT)",
    "prctl(PR_SET_NO_NEW_PRIVS)",
    "prctl(PR_SET_PDEATHSIG)",
    "getppid",
    "setsid",
    "waiting for the master",
    "execve",
    "verifying that privileges are gone",
];

/// Starts a process with these descriptors, each under the number beside it.
///
/// The new process shares 0, 1 and 2 with this process unless they are among these numbers. It has
/// no other descriptors.
///
/// The new process has its own session and process group, which no other worker can enter, and no
/// controlling terminal. It cannot inject input into this process's terminal, and a Ctrl-C there
/// reaches only this process, which then stops its workers in order. It has default signals, none
/// blocked, and dies with the calling thread.
pub(crate) fn spawn(
    command: &Command,
    descriptors: &[(RawFd, BorrowedFd<'_>)],
) -> Result<Child, SpawnError> {
    #[cfg(test)]
    if let Some(system) = super::simulated::system() {
        return system.spawn(command, descriptors);
    }
    let (reader, writer) = UnixStream::pair().map_err(here("socketpair"))?;
    let terminals = terminals(command, descriptors);
    let own = terminals.iter().map(|(number, terminal)| (*number, terminal.as_fd()));
    let descriptors: Vec<_> = descriptors.iter().copied().chain(own).collect();
    let prepared = Prepared::new(command, &descriptors, &writer)?;
    drop(terminals);
    drop(writer);
    let parent = nix::unistd::getpid();

    // A signal between fork and exec would run this process's handlers in the child.
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))
        .map_err(|errno| SpawnError::Here("sigprocmask", errno.into()))?;
    // SAFETY: the child makes only async-signal-safe calls on memory prepared above, and ends in
    // execve or _exit; other threads of this process may hold any lock.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(nix::unistd::ForkResult::Child) = forked {
        let failed = prepared.run(parent);
        prepared.report(failed);
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    let pid = match forked {
        Ok(nix::unistd::ForkResult::Parent { child }) => child,
        Ok(nix::unistd::ForkResult::Child) => exit_now(127),
        Err(errno) => return Err(SpawnError::Here("fork", errno.into())),
    };
    drop(prepared);
    Child::of(pid, reader.into())
}

/// Opens standard output and error write-only, if they are a terminal that a process of another
/// user would share with this process. That process could otherwise read the terminal's input, if
/// the descriptor is open for reading.
fn terminals(command: &Command, given: &[(RawFd, BorrowedFd<'_>)]) -> Vec<(RawFd, OwnedFd)> {
    if command.identity.account().is_none() {
        return Vec::new();
    }
    let own = [1, 2].into_iter().filter(|number| given.iter().all(|(given, _)| given != number));
    own.filter_map(|number| Some((number, fds::open_to_write(number)?))).collect()
}

fn here(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |error| SpawnError::Here(what, error)
}

impl Child {
    fn of(pid: Pid, report: OwnedFd) -> Result<Self, SpawnError> {
        match pidfd::pidfd_open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self { pid: Claimed::new(pid), pidfd, report }),
            Err(error) => {
                // Not reaped yet, so the number still belongs to this child.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                while nix::sys::wait::waitpid(pid, None) == Err(Errno::EINTR) {}
                Err(SpawnError::Here("pidfd_open", error))
            }
        }
    }
}

/// Returns the report of a child that could not run its program, see [`Child::report`].
pub(crate) fn decode(report: [u8; REPORT]) -> Failed {
    let [call, errno @ ..] = report;
    let call = CALLS.get(usize::from(call)).unwrap_or(&CALLS[CALLS.len() - 1]);
    Failed { call, errno: i32::from_ne_bytes(errno) }
}
