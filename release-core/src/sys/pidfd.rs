//! Processes by descriptor: a pid may be reused, a pidfd never refers to another process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::claimed::is_claimed;
use super::process::Stat;
use crate::sys::exit_status::ExitStatus;

/// Opens a descriptor for a process that has not been reaped yet. It is close-on-exec.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let number = RawFd::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends a signal to exactly the process that the descriptor refers to.
pub(crate) fn send_signal(
    pidfd: &impl AsRawFd,
    signal: nix::sys::signal::Signal,
) -> io::Result<()> {
    send(pidfd, signal as i32, 0)
}

/// Checks that this process may signal that one, with the system call that will be used later.
pub(crate) fn may_signal(pidfd: &impl AsRawFd) -> io::Result<()> {
    send(pidfd, 0, 0)
}

/// Sends a signal, or none, to all remaining members of the process group that a process led, even
/// if that process was reaped. `ESRCH` means that the group is empty.
pub(crate) fn signal_group(
    pidfd: &impl AsRawFd,
    leader: Pid,
    signal: Option<nix::sys::signal::Signal>,
) -> io::Result<()> {
    /// Requires Linux 6.9.
    const PROCESS_GROUP: libc::c_uint = 1 << 2;
    match send(pidfd, signal.map_or(0, |signal| signal as i32), PROCESS_GROUP) {
        // The number is not reused as long as a member of the group has it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(nix::sys::signal::killpg(leader, signal)?)
        }
        sent => sent,
    }
}

fn send(pidfd: &impl AsRawFd, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    #[cfg(test)]
    if let Some(system) = super::simulated::system() {
        return system.signal(pidfd.as_raw_fd(), signal, flags != 0);
    }
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo asks the kernel to fill it in itself.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags)
    };
    Errno::result(sent)?;
    Ok(())
}

/// Reaps the process if it has ended. Returns `None` while it runs.
///
/// Uses the system call directly: nix reaps a process that was ended by a real-time signal, and
/// then refuses to report it.
pub(crate) fn try_wait(pidfd: &impl AsRawFd) -> io::Result<Option<ExitStatus>> {
    wait_id(libc::P_PIDFD, pidfd, libc::WEXITED | libc::WNOHANG)
}

/// Returns whether the process has ended, or an error if it is not a child of this one or was
/// reaped.
pub(crate) fn has_ended(pidfd: &impl AsRawFd) -> io::Result<bool> {
    Ok(ended(pidfd)?.is_some())
}

/// Returns how the child has ended without reaping it, or `None` while it runs.
pub(crate) fn ended(pidfd: &impl AsRawFd) -> io::Result<Option<ExitStatus>> {
    wait_id(libc::P_PIDFD, pidfd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Waits for the end of a killed process, and reaps it.
pub(crate) fn wait(pidfd: &impl AsRawFd) -> io::Result<()> {
    wait_id(libc::P_PIDFD, pidfd, libc::WEXITED).map(drop)
}

fn wait_id(
    kind: libc::idtype_t,
    pidfd: &impl AsRawFd,
    flags: i32,
) -> io::Result<Option<ExitStatus>> {
    #[cfg(test)]
    if let Some(system) = super::simulated::system() {
        return system.wait(pidfd.as_raw_fd(), flags & libc::WNOWAIT == 0);
    }
    let number = libc::id_t::try_from(pidfd.as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let info = waitid(kind, number, flags)?;
    // SAFETY: a siginfo filled in by waitid has a status, and so do the zeros for a running process.
    let status = unsafe { info.si_status() };
    Ok(match (info.si_signo, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(ExitStatus::Code(status)),
        (_, code) => Some(ExitStatus::Signal { number: status, core: code == libc::CLD_DUMPED }),
    })
}

fn waitid(kind: libc::idtype_t, number: libc::id_t, flags: i32) -> io::Result<libc::siginfo_t> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one siginfo, for which there is room.
    Errno::result(unsafe { libc::waitid(kind, number, info.as_mut_ptr(), flags) })?;
    // SAFETY: zero is a valid value of every field.
    Ok(unsafe { info.assume_init() })
}

/// The children found ended at the last check, with no caller here waiting for them.
#[derive(Debug, Default)]
pub(crate) struct Orphans(HashMap<i32, Stat>);

impl Orphans {
    /// Reaps the children that had already ended at the last call, and records the children that
    /// have ended since. Returns whether there are any.
    ///
    /// The code that started a child can reap it between two calls.
    pub(crate) fn reap(&mut self) -> bool {
        let now = zombies();
        for (pid, stat) in &now {
            let pid = Pid::from_raw(*pid);
            if self.0.get(&pid.as_raw()) == Some(stat) && !is_claimed(pid) {
                let _ = reap(pid);
            }
        }
        self.0 = now;
        !self.0.is_empty()
    }
}

/// Returns all children that have ended and were not reaped.
fn zombies() -> HashMap<i32, Stat> {
    let own = nix::unistd::getpid().as_raw();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut zombies: HashMap<_, _> = numbers
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
        .filter(|(_, stat)| stat.parent == own && stat.is_zombie)
        .collect();
    // Without /proc, one at a time.
    if zombies.is_empty() {
        zombies.extend(any_zombie().map(|pid| (pid.as_raw(), Stat::default())));
    }
    zombies
}

/// Returns a child that has ended and was not reaped.
fn any_zombie() -> Option<Pid> {
    let info = waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT).ok()?;
    // SAFETY: a siginfo filled in by waitid has a pid, and so do the zeros for no child.
    Some(unsafe { info.si_pid() }).filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// Reaps a zombie by its number, which cannot be reused before this call.
fn reap(zombie: Pid) -> io::Result<()> {
    let number = libc::id_t::try_from(zombie.as_raw()).unwrap_or_default();
    match waitid(libc::P_PID, number, libc::WEXITED | libc::WNOHANG) {
        Err(error) if error.raw_os_error() != Some(libc::ECHILD) => Err(error),
        _ => Ok(()),
    }
}
