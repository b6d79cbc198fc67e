//! Replacing this process's program using exec, and the data passed from one program to the next.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::process::thread_count;

pub(crate) mod way_back;

/// Size limit: no honest process leaves more to its successor.
const MOST: u64 = 1 << 30;

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Writes bytes to an unnamed file that can no longer be changed. It is close-on-exec.
pub(crate) fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"release-upgrade", flags)?);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// Reads the bytes of a file created by [`seal`], in any process.
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

/// Removes a variable from the environment.
///
/// # Errors
///
/// Returns [`io::ErrorKind::Unsupported`] if there is another thread, which could be reading it.
pub(crate) fn take_variable(name: &str) -> io::Result<Option<OsString>> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    if thread_count()? != 1 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: no other thread reads or writes the environment: there is none.
    unsafe { std::env::remove_var(name) };
    Ok(Some(value))
}

/// A program to execute.
#[derive(Debug)]
pub(crate) struct Image {
    /// The executable file.
    pub(crate) program: OwnedFd,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`.
    pub(crate) environment: Vec<CString>,
}

impl Image {
    /// Executes the program, which receives these descriptors under their current numbers. Returns
    /// only on failure, and then nothing has changed.
    ///
    /// Signals are blocked meanwhile, and in the program until it unblocks them. Must be called on
    /// the main thread: a worker dies with the thread that started it.
    pub(crate) fn become_it(&self, descriptors: &[OwnedFd]) -> io::Error {
        let error = self.exec(descriptors).unwrap_or_else(io::Error::from);
        for descriptor in descriptors {
            let _ = fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        error
    }

    fn exec(&self, descriptors: &[OwnedFd]) -> Result<io::Error, Errno> {
        for descriptor in descriptors {
            fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let Err(errno) = nix::unistd::fexecve(&self.program, &self.arguments, &self.environment);
        Ok(errno.into())
    }
}
