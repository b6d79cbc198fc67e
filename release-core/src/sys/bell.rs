//! A descriptor by which one process wakes another, and which cannot block either of them.
//!
//! Both processes have the same open file, and with it its flags. With an eventfd, a hostile process
//! clears `O_NONBLOCK` and fills the counter, and the other one hangs in its next write. A timer has a
//! counter too, that of its expirations. To set it (`TFD_IOC_SET_TICKS`) and to reset it never waits,
//! whatever the flags and the counter are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

mod request {
    // `_IOW('T', 0, u64)`, whose number depends on the architecture.
    nix::ioctl_write_ptr!(set_ticks, b'T', 0, u64);
}

/// Creates a bell. It is silent, and readable while it rings.
///
/// # Errors
///
/// Returns the errors of timerfd_create, and `ENOTTY` if the kernel cannot ring it
/// (`CONFIG_CHECKPOINT_RESTORE` is not set).
pub(crate) fn create() -> io::Result<OwnedFd> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let bell = OwnedFd::from(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
    ring(bell.as_fd())?;
    silence(bell.as_fd())?;
    Ok(bell)
}

/// Returns whether this is a timer. No other file learns of the question.
pub(crate) fn is_one(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: a plain C structure, for which all zeros is a value.
    let mut time: libc::itimerspec = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a structure of that kind, which lives longer than the call.
    unsafe { libc::timerfd_gettime(fd.as_raw_fd(), &raw mut time) == 0 }
}

/// Makes a bell readable for everybody who has it.
pub(crate) fn ring(bell: BorrowedFd<'_>) -> io::Result<()> {
    let once = 1;
    // SAFETY: the kernel reads one integer, which lives longer than the call.
    unsafe { request::set_ticks(bell.as_raw_fd(), &raw const once) }?;
    Ok(())
}

/// Makes a bell unreadable until it is rung again.
pub(crate) fn silence(bell: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain C structure, for which all zeros is a value: a timer that is not set.
    let unset: libc::itimerspec = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads the structure, which lives longer than the call, and writes nothing.
    let result = unsafe {
        libc::timerfd_settime(bell.as_raw_fd(), 0, &raw const unset, std::ptr::null_mut())
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Returns whether a bell rings.
pub(crate) fn rings(bell: BorrowedFd<'_>) -> io::Result<bool> {
    let mut one = [PollFd::new(bell, PollFlags::POLLIN)];
    Ok(poll(&mut one, PollTimeout::ZERO)? > 0)
}

#[cfg(test)]
mod tests {
    use std::io::pipe;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::sys::fds::set_blocking;

    #[test]
    fn it_rings_until_it_is_silenced() {
        let bell = create().unwrap();
        assert!(!rings(bell.as_fd()).unwrap());
        for _ in 0..3 {
            ring(bell.as_fd()).unwrap();
            ring(bell.as_fd()).unwrap();
            assert!(rings(bell.as_fd()).unwrap());
            silence(bell.as_fd()).unwrap();
            assert!(!rings(bell.as_fd()).unwrap());
        }
    }

    #[test]
    fn nothing_that_another_process_does_to_it_makes_a_call_wait() {
        let bell = create().unwrap();
        let other = bell.try_clone().unwrap();
        set_blocking(&other).unwrap();
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            for _ in 0..3 {
                silence(bell.as_fd()).unwrap();
                ring(bell.as_fd()).unwrap();
            }
            done.send(()).unwrap();
        });
        finished.recv_timeout(Duration::from_secs(30)).expect("no call waits");
    }

    #[test]
    fn other_files_are_none() {
        let (reader, _writer) = pipe().unwrap();
        assert!(is_one(create().unwrap().as_fd()));
        assert!(!is_one(reader.as_fd()) && ring(reader.as_fd()).is_err());
    }
}
