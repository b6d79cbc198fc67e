//! epoll(7), with waits to the nanosecond.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Creates an epoll instance that no other program inherits.
pub(crate) fn create() -> nix::Result<Epoll> {
    Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
}

/// Creates an eventfd that no other program inherits, and that never blocks.
pub(crate) fn eventfd() -> nix::Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

/// Watches a descriptor, or watches it in this way from now on.
///
/// A watch can be left behind under the same number: epoll ends it when the last duplicate of the
/// file is closed, not when this number is.
pub(crate) fn add(epoll: &Epoll, fd: &OwnedFd, event: EpollEvent) -> nix::Result<()> {
    match epoll.add(fd, event) {
        Err(Errno::EEXIST) => modify(epoll, fd, event),
        added => added,
    }
}

/// Changes what a watched descriptor is watched for, and reports it anew if it is ready.
pub(crate) fn modify(epoll: &Epoll, fd: &OwnedFd, mut event: EpollEvent) -> nix::Result<()> {
    epoll.modify(fd, &mut event)
}

/// Waits for events, without end if there is no timeout. Returns how many have come.
///
/// # Errors
///
/// Returns `EINTR` after a signal.
pub(crate) fn wait(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
) -> nix::Result<usize> {
    /// Before Linux 5.11, and in containers with older rules.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    if IS_MISSING.load(Ordering::Relaxed) {
        return wait_for_milliseconds(epoll, events, timeout);
    }
    match wait_for_nanoseconds(epoll, events, timeout) {
        Err(Errno::ENOSYS | Errno::EPERM) => {
            IS_MISSING.store(true, Ordering::Relaxed);
            wait_for_milliseconds(epoll, events, timeout)
        }
        waited => waited,
    }
}

/// The kernel's own `timespec`, which has 64 bits for each part everywhere.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

fn wait_for_nanoseconds(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
) -> nix::Result<usize> {
    let timeout = timeout.map(|timeout| Timespec {
        seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: timeout.subsec_nanos().into(),
    });
    let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel writes at most `room` events, each of the layout of `EpollEvent`, into the
    // slice, and reads one timeout, if there is one. There is no signal mask.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.0.as_fd().as_raw_fd(),
            events.as_mut_ptr(),
            room,
            timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
            std::ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    Ok(usize::try_from(Errno::result(count)?).unwrap_or_default())
}

/// Rounds up: a wait that ends before the timeout would be repeated without a pause.
fn wait_for_milliseconds(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
) -> nix::Result<usize> {
    let timeout = timeout.map_or(EpollTimeout::NONE, |timeout| {
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        i32::try_from(milliseconds)
            .ok()
            .and_then(|it| it.try_into().ok())
            .unwrap_or(EpollTimeout::MAX)
    });
    epoll.wait(events, timeout)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::epoll::EpollFlags;

    use super::*;

    #[test]
    fn both_waits_end_with_the_timeout_and_with_an_event() {
        let (epoll, event) = (create().unwrap(), eventfd().unwrap());
        let mut events = [EpollEvent::empty(); 4];
        let event = OwnedFd::from(event);
        add(&epoll, &event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 7)).unwrap();
        for wait in [wait_for_nanoseconds, wait_for_milliseconds] {
            for timeout in [0, 1, 1_000, 1_500_000].map(Duration::from_nanos) {
                let began = Instant::now();
                assert_eq!(wait(&epoll, &mut events, Some(timeout)), Ok(0));
                assert!(began.elapsed() >= timeout, "it ended before {timeout:?}");
            }
            nix::unistd::write(&event, &1_u64.to_ne_bytes()).unwrap();
            assert_eq!(wait(&epoll, &mut events, None), Ok(1));
            assert_eq!(events[0].data(), 7);
            nix::unistd::write(&event, &1_u64.to_ne_bytes()).unwrap();
            let ten_years = Duration::from_secs(10 * 365 * 24 * 60 * 60);
            assert_eq!(wait(&epoll, &mut events, Some(ten_years)), Ok(1));
        }
    }

    #[test]
    fn a_watch_that_was_left_behind_is_taken_over() {
        let (epoll, event) = (create().unwrap(), OwnedFd::from(eventfd().unwrap()));
        let mut events = [EpollEvent::empty(); 4];
        for key in [1, 2] {
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            add(&epoll, &event, EpollEvent::new(interest, key)).unwrap();
            nix::unistd::write(&event, &1_u64.to_ne_bytes()).unwrap();
            assert_eq!(wait(&epoll, &mut events, None), Ok(1));
            assert_eq!(events[0].data(), key);
        }
    }
}
