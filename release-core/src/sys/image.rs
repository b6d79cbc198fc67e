//! This process's program: left for another one by exec, with what the two leave each other.

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
    /// The file.
    pub(crate) program: OwnedFd,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`.
    pub(crate) environment: Vec<CString>,
}

impl Image {
    /// Becomes that program, which gets these descriptors at the numbers that they have here. Comes
    /// back only when that failed, and then nothing has changed.
    ///
    /// Signals are blocked meanwhile, and in the program until it asks for them. To be called on the
    /// main thread: a worker dies with the thread that has started it.
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
