//! This process as seen by the kernel: threads, fork, session, name, parent.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Failed, check};

/// Returns the number of threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Returns whether a process of this group runs. Ended but unreaped processes do not count. Without
/// /proc this is unknown, and the result is true.
pub(crate) fn has_living_group(group: Pid) -> bool {
    #[cfg(test)]
    if let Some(system) = super::simulated::system() {
        return system.has_group(group.as_raw());
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let mut seen = false;
    for entry in processes.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        seen = true;
        if Stat::of(pid).is_some_and(|it| it.group == group.as_raw() && !it.is_zombie) {
            return true;
        }
    }
    !seen
}

/// The data of a process in /proc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) is_zombie: bool,
    /// Distinguishes it from an earlier process with the same number.
    pub(crate) began: u64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The preceding name may contain any characters.
        let (_, rest) = line.rsplit_once(')')?;
        let words: Vec<_> = rest.split_ascii_whitespace().collect();
        Some(Self {
            is_zombie: matches!(*words.first()?, "Z" | "X"),
            parent: words.get(1)?.parse().ok()?,
            group: words.get(2)?.parse().ok()?,
            session: words.get(3)?.parse().ok()?,
            began: words.get(19)?.parse().ok()?,
        })
    }
}

/// Returns the resident memory of a process in bytes, or `None` if it is gone.
pub(crate) fn resident_memory(pid: i32) -> Option<u64> {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: u64 = pages.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(resident * u64::try_from(page).ok()?)
}

/// Returns the processor time of a process, or `None` if it is gone.
pub(crate) fn processor_time(pid: i32) -> Option<Duration> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Duration::from_millis((user + system) * 1000 / ticks.max(1)))
}

/// The two sides of a fork.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks a process that has one thread.
///
/// # Errors
///
/// Returns `EAGAIN` or `ENOMEM`, and [`io::ErrorKind::Unsupported`] if there is more than one
/// thread, because the child would hold locks that no thread could release.
pub(crate) fn fork() -> io::Result<Fork> {
    if thread_count()? != 1 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // SAFETY: the only thread continues in the child (counted above; no other thread is left that
    // could start one), so the child may do anything that this process may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Exits this process immediately: no destructors run, no buffers are flushed twice after a fork.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Fills the bytes with random ones, fit for keys.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel writes at most as many bytes as the slice has.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match nix::errno::Errno::result(count) {
            Ok(count) => filled += usize::try_from(count).unwrap_or(0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Sets the name that `ps` and `top` show (at most 15 bytes of it).
pub(crate) fn set_name(name: &str) {
    let mut bytes = [0_u8; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    // SAFETY: the kernel reads up to 16 bytes, ended by NUL, from a buffer of 16 that ends so.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// Disables core dumps, and tracing or reading of this process's memory by the same user.
pub(crate) fn forbid_tracing() -> Result<(), Failed> {
    prctl("prctl(PR_SET_DUMPABLE)", libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// Prevents programs of this process from gaining rights: set-user-id bits are ignored.
pub(crate) fn forbid_new_privileges() -> Result<(), Failed> {
    prctl("prctl(PR_SET_NO_NEW_PRIVS)", libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Leaves the inherited session keyring, which may hold a key of root's, for a new empty one.
/// Allocates nothing.
///
/// If no new keyring can be had, either the container forbids it, and processes have no keys in the
/// inherited one, or there are already more keys than allowed. Neither is a reason to stop.
pub(crate) fn leave_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let nameless: *const libc::c_char = std::ptr::null();
    // SAFETY: without a name, the kernel reads no memory.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, nameless) };
}

/// Requests SIGKILL on the death of `parent`, and checks that it has not died before the request.
///
/// A change of user clears the request: call this after it. Allocates nothing.
pub(crate) fn die_with(parent: Pid) -> Result<(), Failed> {
    prctl("prctl(PR_SET_PDEATHSIG)", libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())?;
    if nix::unistd::getppid() == parent {
        Ok(())
    } else {
        Err(Failed { call: "getppid", errno: libc::ESRCH })
    }
}

/// Makes descendants that lose their parent children of this process.
pub(crate) fn adopt_orphans() -> Result<(), Failed> {
    prctl("prctl(PR_SET_CHILD_SUBREAPER)", libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// Passes one argument, the rest zero, as most options of prctl require.
pub(super) fn prctl(
    call: &'static str,
    option: libc::c_int,
    argument: libc::c_ulong,
) -> Result<libc::c_long, Failed> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used in this module take an integer and no pointer.
    check(call, unsafe { libc::prctl(option, argument, zero, zero, zero) }.into())
}

/// Replaces standard input, output or error by a file.
pub(crate) fn redirect(number: i32, file: &impl AsFd) -> io::Result<()> {
    match number {
        0 => nix::unistd::dup2_stdin(file)?,
        1 => nix::unistd::dup2_stdout(file)?,
        _ => nix::unistd::dup2_stderr(file)?,
    }
    Ok(())
}
