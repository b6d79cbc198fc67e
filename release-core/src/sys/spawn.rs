//! Starts a worker: fork and exec, with all preparations before the fork.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

use super::claimed::Claimed;
use super::process::exit_now;
use super::{fds, pidfd};

mod command;
mod error;
mod prepared;
mod report;

pub(crate) use command::{Command, FIRST_PASSED, Identity};
use error::here;
pub(crate) use error::{RIGHT_TO_END, SpawnError};
use prepared::Prepared;
pub(crate) use report::{ASKS, GOES_ON, REPORT, decode};

/// A process that is about to run its program.
///
/// The master does not wait for that: as soon as the child has another user, other processes of
/// that user can stop it, and would stop the master with it.
#[derive(Debug)]
pub(crate) struct SpawnedChild {
    pub(crate) pid: Claimed,
    pub(crate) pidfd: OwnedFd,
    /// A socket that closes when the program runs, or reports an earlier failure in [`REPORT`]
    /// bytes. It first sends [`ASKS`]. The program is run only after the answer [`GOES_ON`].
    pub(crate) report: OwnedFd,
}

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
) -> Result<SpawnedChild, SpawnError> {
    #[cfg(test)]
    if let Some(system) = super::simulated::system() {
        return system.spawn(command, descriptors);
    }
    let (reader, writer) = UnixStream::pair().map_err(here("socketpair"))?;
    let terminals = terminals(command, descriptors);
    let own = terminals.iter().map(|(number, terminal)| (*number, terminal.as_fd()));
    let descriptors: Vec<_> = descriptors.iter().copied().chain(own).collect();
    let prepared = Prepared::new(command, &descriptors, &writer);
    let parent = nix::unistd::getpid();

    // A fork copies the page tables, but a child that shared this memory would be a danger. It waits for
    // files and for an answer of this process. And a process of its new user could make it dump core,
    // which until Linux 5.16 ends all processes that share its memory.
    //
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
    drop(writer);
    SpawnedChild::of(pid, reader.into())
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

impl SpawnedChild {
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
