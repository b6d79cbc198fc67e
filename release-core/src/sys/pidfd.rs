//! Processes by descriptor: a pid may be reused, a pidfd never means another process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::claimed::is_claimed;
use crate::supervise::Exit;

/// Opens a descriptor for a process that has not been reaped yet. It is close-on-exec.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let number = RawFd::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends a signal to the very process that the descriptor stands for.
pub(crate) fn send_signal(
    pidfd: &impl AsRawFd,
    signal: nix::sys::signal::Signal,
) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo asks the kernel to fill it in itself.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, info, 0)
    };
    Errno::result(sent)?;
    Ok(())
}

/// Reaps the process when it has ended; `None` while it runs.
///
/// By the system call itself: nix reaps a process that a real-time signal ended, and then refuses
/// to say so.
pub(crate) fn try_wait(pidfd: &impl AsRawFd) -> io::Result<Option<Exit>> {
    wait_id(libc::P_PIDFD, pidfd, libc::WEXITED | libc::WNOHANG)
}

/// Whether the process has ended; an error when it is no child of this one, or was reaped.
pub(crate) fn has_ended(pidfd: &impl AsRawFd) -> io::Result<bool> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    Ok(wait_id(libc::P_PIDFD, pidfd, flags)?.is_some())
}

/// Waits for the end of a process that has been killed, and reaps it.
pub(crate) fn wait(pidfd: &impl AsRawFd) -> io::Result<()> {
    wait_id(libc::P_PIDFD, pidfd, libc::WEXITED).map(drop)
}

fn wait_id(kind: libc::idtype_t, pidfd: &impl AsRawFd, flags: i32) -> io::Result<Option<Exit>> {
    let number = libc::id_t::try_from(pidfd.as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let info = waitid(kind, number, flags)?;
    // SAFETY: what waitid has filled in has a status; zeros, of a process that runs, do too.
    let status = unsafe { info.si_status() };
    Ok(match (info.si_signo, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(Exit::Code(status)),
        (_, code) => Some(Exit::Signal { number: status, core: code == libc::CLD_DUMPED }),
    })
}

fn waitid(kind: libc::idtype_t, number: libc::id_t, flags: i32) -> io::Result<libc::siginfo_t> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one siginfo, for which there is room.
    Errno::result(unsafe { libc::waitid(kind, number, info.as_mut_ptr(), flags) })?;
    // SAFETY: zero is a valid value of every field.
    Ok(unsafe { info.assume_init() })
}

/// Reaps the children that have ended and that nobody here waits for. One that somebody does wait for
/// may hide others: `false` says that there may be more.
pub(crate) fn reap_orphans() -> io::Result<bool> {
    while let Some(zombie) = any_zombie()? {
        if is_claimed(zombie) {
            return Ok(false);
        }
        reap(zombie)?;
    }
    Ok(true)
}

/// A child that has ended and was not reaped, whoever started it.
fn any_zombie() -> io::Result<Option<Pid>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        // SAFETY: what waitid has filled in has a pid; zeros, for no child, do too.
        Ok(info) => Ok(Some(unsafe { info.si_pid() }).filter(|pid| *pid > 0).map(Pid::from_raw)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps a zombie by its number, which cannot be reused before this call.
fn reap(zombie: Pid) -> io::Result<()> {
    let number = libc::id_t::try_from(zombie.as_raw()).unwrap_or_default();
    match waitid(libc::P_PID, number, libc::WEXITED | libc::WNOHANG) {
        Err(error) if error.raw_os_error() != Some(libc::ECHILD) => Err(error),
        _ => Ok(()),
    }
}
