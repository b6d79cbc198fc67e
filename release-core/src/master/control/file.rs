//! The file of a control socket, created at the start, and again if it was removed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, Uid};

use crate::net::{FileIdentity, Socket, Unix, give_away};
use crate::sys::rights;
use crate::trusted::{Writers, check_path};
use crate::{Error, ErrorKind};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Path and access rights of the socket file.
#[derive(Clone, Debug)]
pub(super) struct SocketFileOptions {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, u32)>,
}

impl SocketFileOptions {
    /// Returns a socket that listens there.
    pub(super) fn make(&self) -> Result<(OwnedFd, FileIdentity), Error> {
        check_path(&self.path, Writers::Nobody).map_err(|why| {
            self.cannot_make(Error::new(
                ErrorKind::Usage,
                format!("it is not safe for root: {why}"),
            ))
        })?;
        let address = Unix::path(&self.path);
        let socket = Socket::unconnected(&address)
            .and_then(|socket| socket.mode(self.mode)?.bind_listening(&address, BACKLOG))
            .map_err(|error| self.cannot_make(error))?;
        rights::refuse(socket.as_fd());
        let file = FileIdentity::of(&self.path)?;
        self.set_owner().inspect_err(|_| drop(std::fs::remove_file(&self.path)))?;
        Ok((socket, file))
    }

    /// Gives an existing file its mode and owner.
    pub(super) fn set_access(&self) -> Result<(), Error> {
        self.set_mode()?;
        self.set_owner()
    }

    fn set_owner(&self) -> Result<(), Error> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        give_away(&self.path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|errno| self.cannot_make(Error::system("cannot change its owner", errno)))
    }

    fn set_mode(&self) -> Result<(), Error> {
        let mode = Mode::from_bits_truncate(self.mode);
        fchmodat(AT_FDCWD, &self.path, mode, FchmodatFlags::NoFollowSymlink)
            .map_err(|errno| self.cannot_make(Error::system("cannot set its mode", errno)))
    }

    /// Returns whether the path is free.
    pub(super) fn is_missing(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    #[cold]
    fn cannot_make(&self, error: Error) -> Error {
        let path = self.path.display();
        if error.kind() == ErrorKind::AlreadyRunning {
            let message = format!("already running: somebody answers on the control socket {path}");
            return Error::new(ErrorKind::AlreadyRunning, message);
        }
        Error::new(error.kind(), format!("cannot make the control socket {path}")).caused_by(error)
    }
}
