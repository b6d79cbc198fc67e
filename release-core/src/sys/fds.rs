//! Descriptors: flags, and descriptors that a launcher left open.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, rlim_t};

use super::{Failed, check};

/// Sets `O_NONBLOCK` on the open file description.
pub(crate) fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Clears `O_NONBLOCK` on the open file description.
pub(crate) fn set_blocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Keeps the descriptor from every program that this process runs, unless it is passed on.
pub(crate) fn set_cloexec(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Passes the descriptor on to the program that takes this process's place.
pub(crate) fn keep_over_exec(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes the exclusive lock of an open file without waiting (`File::try_lock` needs Rust 1.89).
///
/// # Errors
///
/// Returns [`io::ErrorKind::WouldBlock`] if another open file description of the file holds the lock.
pub(crate) fn try_lock(file: &impl AsFd) -> io::Result<()> {
    let number = file.as_fd().as_raw_fd();
    // SAFETY: the call reads nothing but the number, and the file is borrowed meanwhile.
    let result = unsafe { libc::flock(number, libc::LOCK_EX | libc::LOCK_NB) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Writes as much as there is room for at this moment, without changing the open file description.
///
/// # Errors
///
/// Returns [`io::ErrorKind::WouldBlock`] if there is no room, and [`io::ErrorKind::Unsupported`] if
/// the kernel does not support this for the file.
pub(crate) fn write_at_once(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let position: libc::c_long = -1;
    let number = fd.as_raw_fd();
    // SAFETY: the kernel reads one part, whose bytes are borrowed meanwhile; the position -1 means the
    // current position of the file.
    let written = unsafe {
        libc::syscall(
            libc::SYS_pwritev2,
            number,
            &raw const part,
            1_usize,
            position,
            position,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(written).map_err(|_| match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            io::ErrorKind::Unsupported.into()
        }
        error => error,
    })
}

/// Returns a close-on-exec duplicate whose number is at least `lowest`.
pub(crate) fn duplicate_from(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just created this descriptor for this process; its number is not yet
    // known elsewhere.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes an inherited descriptor, and marks it close-on-exec.
///
/// Its number must be above 2, and each number may be taken once: the caller received the numbers
/// from the process that started this one.
pub(crate) fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: only asks the kernel for the flags; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open (the call above succeeded), and no Rust object owns it: it was passed to this
    // process at a number that its starter assigned, and is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Duplicates a descriptor left open by an earlier image of this process. The original stays open.
pub(crate) fn copy_left(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: only makes a duplicate; a number that is not open gives EBADF.
    duplicate_from(unsafe { BorrowedFd::borrow_raw(number) }, 3)
}

/// Replaces a descriptor by a duplicate of another one, under the same number.
pub(crate) fn replace(mut place: OwnedFd, fd: OwnedFd) -> io::Result<OwnedFd> {
    nix::unistd::dup3(fd, &mut place, OFlag::O_CLOEXEC)?;
    Ok(place)
}

/// Descriptors that the next version of the program will request again, by their numbers.
static ASKED_FOR: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Duplicates an inherited descriptor. The original stays unchanged, even across an exec. Workers
/// never receive it.
pub(crate) fn copy_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let copy = copy_left(number)?;
    ASKED_FOR.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    Ok(copy)
}

/// Returns duplicates of the descriptors requested from [`copy_inherited`], with their numbers.
pub(crate) fn asked_for() -> io::Result<BTreeMap<RawFd, OwnedFd>> {
    let numbers = ASKED_FOR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let copy = |number| Ok((number, copy_inherited(number)?));
    numbers.into_iter().map(copy).collect()
}

/// The treatment of descriptors above 2 that the process that started this one left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// Keep them open here, but pass them to no worker.
    CloseOnExec,
    /// Close them.
    Close,
}

/// Treats the descriptors above 2 that the launcher left open, except those listed.
///
/// All descriptors opened by this program are close-on-exec (the standard library and well-behaved
/// crates open files so). A descriptor without the flag has therefore survived an exec: it is
/// inherited.
pub(crate) fn settle_inherited(treatment: Inherited, except: &[RawFd]) -> io::Result<()> {
    let asked_for = ASKED_FOR.lock().unwrap_or_else(PoisonError::into_inner);
    let mut numbers = Vec::new();
    let entries = match std::fs::read_dir("/proc/self/fd") {
        Err(_) if treatment == Inherited::CloseOnExec => {
            let kept = except.iter().chain(asked_for.iter()).copied().collect();
            return close_all_on_exec(&kept);
        }
        entries => entries?,
    };
    for entry in entries {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        numbers.extend(number.filter(|number| {
            *number > 2 && !except.contains(number) && !asked_for.contains(number)
        }));
    }
    for number in numbers {
        // SAFETY: only reads and sets flags; a number that is no longer open gives EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(flags) = fcntl(borrowed, FcntlArg::F_GETFD) else {
            continue;
        };
        if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
            continue;
        }
        match treatment {
            Inherited::CloseOnExec => {
                fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            // SAFETY: without the flag it was not opened by this program (see above), so no Rust
            // object owns it.
            Inherited::Close => drop(unsafe { OwnedFd::from_raw_fd(number) }),
        }
    }
    Ok(())
}

/// Marks all descriptors above 2 except these, without /proc.
fn close_all_on_exec(kept: &BTreeSet<RawFd>) -> io::Result<()> {
    let mut first = 3;
    for kept in kept.iter().copied().filter(|number| *number > 2).chain([RawFd::MAX]) {
        if first < kept {
            let (from, to) = (libc::c_long::from(first), libc::c_long::from(kept - 1));
            let flag = libc::CLOSE_RANGE_CLOEXEC;
            // SAFETY: only sets flags.
            let marked = unsafe { libc::syscall(libc::SYS_close_range, from, to, flag) };
            // Workers receive none of them in any case.
            check("close_range", marked).map_err(|error| {
                io::Error::new(io::Error::from_raw_os_error(error.errno).kind(), error)
            })?;
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// Closes all descriptors from this number on, between fork and exec. Allocates nothing.
pub(crate) fn close_from(first: RawFd) -> Result<(), Failed> {
    // SAFETY: closes a child's copies only; it never returns to code that owns them.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, libc::c_long::from(first), u32::MAX, 0) };
    match check("close_range", closed) {
        // Before Linux 5.9, and in containers with older rules.
        Err(Failed { errno: libc::ENOSYS | libc::EPERM, .. }) => close_each_from(first),
        closed => closed.map(drop),
    }
}

/// Closes the descriptors one by one.
fn close_each_from(first: RawFd) -> Result<(), Failed> {
    /// Maximum number, which limits the duration of the loop.
    const MOST: rlim_t = 1 << 20;
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(soft, _)| soft.min(MOST));
    for number in first..RawFd::try_from(limit).unwrap_or(RawFd::MAX) {
        // SAFETY: as above; a number that is not open gives EBADF.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Moves standard input to a new descriptor, and replaces it by `/dev/null`.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = duplicate_from(io::stdin().as_fd(), 3)?;
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| io::Error::new(error.kind(), format!("cannot open /dev/null: {error}")))?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(taken)
}

/// Opens standard output or error write-only, if it is a terminal.
pub(crate) fn open_to_write(number: RawFd) -> Option<OwnedFd> {
    let is_terminal = match number {
        1 => io::stdout().is_terminal(),
        _ => io::stderr().is_terminal(),
    };
    let open = || {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let path = format!("/proc/self/fd/{number}");
        let opened = std::fs::OpenOptions::new().write(true).custom_flags(flags.bits()).open(path);
        let terminal = OwnedFd::from(opened.ok()?);
        set_blocking(&terminal).ok()?;
        Some(terminal)
    };
    is_terminal.then(open).flatten()
}

/// Returns whether the descriptor is a socket.
pub(crate) fn is_socket(fd: &impl AsRawFd) -> bool {
    nix::sys::stat::fstat(borrow(fd)).is_ok_and(|stat| {
        nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT)
            == nix::sys::stat::SFlag::S_IFSOCK
    })
}

fn borrow(fd: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the number comes from a reference that lives as long as the borrow.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}
