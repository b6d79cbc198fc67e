//! This process's program: left for another one by exec, with what the two leave each other.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{SysconfVar, sysconf};

use super::process::thread_count;

/// What no honest process leaves to its successor.
const MOST: u64 = 1 << 30;

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Bytes in a file without a name, which nobody can change any more. It is close-on-exec.
pub(crate) fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"release-upgrade", flags)?);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// The bytes of a file that [`seal`] has made, whoever called it.
pub(crate) fn unseal(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let strange = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| strange("it has no seals"))?;
    if !SealFlag::from_bits_retain(seals).contains(SEALS) {
        return Err(strange("it is not sealed"));
    }
    let file = File::from(file.try_clone()?);
    let length = file.metadata()?.len();
    let length = usize::try_from(length.min(MOST + 1)).map_err(|_| strange("it is too long"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Takes a variable out of the environment.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] when there is another thread, which could be reading it.
pub(crate) fn take_variable(name: &str) -> io::Result<Option<OsString>> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    if thread_count()? != 1 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: no other thread reads or writes the environment: there is none.
    unsafe { std::env::remove_var(name) };
    Ok(Some(value))
}

/// A program to become.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) program: CString,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`.
    pub(crate) environment: Vec<CString>,
}

impl Image {
    /// Becomes that program, or the open `file` by its name, which gets these descriptors at the numbers that they have here. Comes
    /// back only when that failed, and then nothing has changed.
    ///
    /// Signals are blocked meanwhile, and in the program until it asks for them. To be called on the
    /// main thread: a worker dies with the thread that has started it.
    pub(crate) fn become_it(&self, file: Option<&OwnedFd>, descriptors: &[OwnedFd]) -> io::Error {
        let error = self.exec(file, descriptors).unwrap_or_else(io::Error::from);
        for descriptor in descriptors {
            let _ = fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        error
    }

    fn exec(&self, file: Option<&OwnedFd>, descriptors: &[OwnedFd]) -> Result<io::Error, Errno> {
        for descriptor in descriptors {
            fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let Err(errno) = match file {
            Some(file) => nix::unistd::fexecve(file, &self.arguments, &self.environment),
            None => nix::unistd::execve(&self.program, &self.arguments, &self.environment),
        };
        Ok(errno.into())
    }
}

/// Takes the program's own code and constants out of this process's memory; what is used of them
/// again comes back from the kernel's cache of the file.
///
/// Most of a program runs only while it starts, and would be resident for years. Libraries stay:
/// other processes have them in memory anyhow.
pub(crate) fn unload() {
    let mut program: Option<libc::dl_phdr_info> = None;
    // SAFETY: the callback takes what it is given here.
    unsafe { libc::dl_iterate_phdr(Some(take_first), (&raw mut program).cast()) };
    let (Some(program), Ok(Some(page))) = (program, sysconf(SysconfVar::PAGE_SIZE)) else { return };
    let page = page.unsigned_abs();
    // SAFETY: there are as many as the loader says, for as long as the program runs.
    let segments =
        unsafe { std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()) };
    for segment in segments {
        if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0 {
            // Whole pages only: its last one may be the next segment's first.
            let begin = (program.dlpi_addr + segment.p_vaddr).next_multiple_of(page);
            let end = program.dlpi_addr + segment.p_vaddr + segment.p_memsz;
            let Ok(length) = usize::try_from((end - end % page).saturating_sub(begin)) else {
                return;
            };
            // SAFETY: nobody may write to these pages, so they are as in the file, and the kernel
            // reads the same again. It leaves those that are locked in memory.
            unsafe { libc::madvise(begin as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        }
    }
}

/// Takes the first of what is loaded, which is the program, and ends the iteration.
///
/// # Safety
///
/// To be called by `dl_iterate_phdr` with a place for what is taken.
unsafe extern "C" fn take_first(
    loaded: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    taken: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: as promised by the caller.
    let loaded = unsafe { loaded.as_ref() };
    // SAFETY: likewise.
    unsafe { taken.cast::<Option<libc::dl_phdr_info>>().write(loaded.copied()) };
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of this program's code, and how many KiB of it are in this process's memory.
    fn code() -> (std::ops::Range<usize>, usize) {
        let program = std::env::current_exe().unwrap().display().to_string();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let is_code = |line: &&str| line.contains(" r-xp ") && line.ends_with(&program);
        let mut lines = maps.lines().skip_while(|line| !is_code(line));
        let (begin, rest) = lines.next().unwrap().split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
        (address(begin)..address(end), resident.unwrap().parse().unwrap())
    }

    #[test]
    fn code_that_does_not_run_is_not_in_memory() {
        let (addresses, _) = code();
        let begin = addresses.start as *mut libc::c_void;
        // SAFETY: only reads what is there to be read.
        unsafe { libc::madvise(begin, addresses.len(), libc::MADV_POPULATE_READ) };
        let (_, before) = code();
        unload();
        let (_, after) = code();
        assert!(after < before / 2, "{before} KiB before, {after} KiB after");
    }
}
