//! Binding to a path that may hold another process's socket.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::kept;
use crate::sys::fds::try_lock;
use crate::{Error, ErrorKind};

/// Time allowed for another process between bind and listen, before its socket counts as dead.
const UNTIL_IT_LISTENS: Duration = Duration::from_millis(20);

/// Binds a socket to a path. A dead socket at the path is replaced; every other file is kept. Runs
/// `then` before another process checks whether the socket is alive.
pub(super) fn bind_path(
    socket: &OwnedFd,
    path: &Path,
    address: &UnixAddr,
    then: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let shown = path.display();
    let bind = || nix::sys::socket::bind(socket.as_raw_fd(), address);
    let failed = |errno| Error::making(format!("cannot bind {shown}"), path, errno);
    // If several processes find the same dead socket, one must not remove another's new socket. If
    // the path is free, there is no need to wait.
    let directory = open_directory(path);
    directory.as_ref().into_iter().for_each(|directory| drop(try_lock(directory)));
    match bind() {
        Err(Errno::EADDRINUSE) => {
            directory.as_ref().into_iter().for_each(wait_for_lock);
            clear_the_way(path, address)?;
            bind().map_err(failed)?;
        }
        bound => bound.map_err(failed)?,
    }
    set_mode(socket, path)
        .map_err(|errno| Error::system(format!("cannot set the mode of {shown}"), errno))
        .and_then(|()| then())
        .inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Restores the mode bits that the umask removed.
fn set_mode(socket: &OwnedFd, path: &Path) -> nix::Result<()> {
    let wanted = fstat(socket)?.st_mode & 0o777;
    let file = open_socket(path)?;
    if fstat(&file)?.st_mode & 0o777 == wanted {
        return Ok(());
    }
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    fchmodat(AT_FDCWD, &*file, Mode::from_bits_truncate(wanted), FchmodatFlags::FollowSymlink)
}

/// Changes the owner of a socket file.
pub(crate) fn give_away(path: &Path, owner: Option<Uid>, group: Option<Gid>) -> nix::Result<()> {
    if owner.is_none() && group.is_none() {
        return Ok(());
    }
    fchownat(open_socket(path)?, "", owner, group, AtFlags::AT_EMPTY_PATH)
}

/// Opens the socket file itself. A user with write access to the directory may swap the file
/// meanwhile; the other file must not get the mode or owner.
fn open_socket(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(path, flags, Mode::empty())?;
    let is_socket = fstat(&file)?.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    if is_socket { Ok(file) } else { Err(Errno::ENOTSOCK) }
}

/// Opens the directory, to be locked while it is open. Best effort: a directory that cannot be
/// opened, or that another process keeps locked, must not prevent a daemon from starting.
fn open_directory(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(parent.unwrap_or_else(|| Path::new(".")));
    directory.ok()
}

fn wait_for_lock(directory: &File) {
    for _ in 0..100 {
        if try_lock(directory).is_ok() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Removes the socket of a dead process. Any other file at the path is an error.
fn clear_the_way(path: &Path, address: &UnixAddr) -> Result<(), Error> {
    let shown = path.display();
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::system(format!("cannot examine {shown}"), error)),
    };
    if !metadata.file_type().is_socket() {
        let message = format!(
            "cannot bind {shown}: something that is not a socket is there; remove it or name \
             another path"
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let answered = is_answered(address) || {
        sleep(UNTIL_IT_LISTENS);
        is_answered(address)
    };
    if answered {
        let message = format!("already running: somebody answers on the socket {shown}");
        return Err(Error::new(ErrorKind::AlreadyRunning, message));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("cannot remove the stale socket {shown}"), error))
        }
        _ => Ok(()),
    }
}

/// Returns whether a process owns this socket. Only a refused connection proves that there is none:
/// a full queue or a missing permission indicates a live socket.
fn is_answered(address: &UnixAddr) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let tried = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), address));
    !matches!(tried, Err(Errno::ECONNREFUSED | Errno::ENOENT))
}

/// The identity of the file at a path at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::symlink_metadata(path)
            .map_err(|error| Error::system(format!("cannot examine {}", path.display()), error))?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Parses the output of [`Display`](fmt::Display).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (device, inode) = text.split_once('-')?;
        Some(Self { device: device.parse().ok()?, inode: inode.parse().ok()? })
    }
}

impl From<FileIdentity> for kept::FileIdentity {
    fn from(FileIdentity { device, inode }: FileIdentity) -> Self {
        Self { device, inode }
    }
}

impl From<kept::FileIdentity> for FileIdentity {
    fn from(kept::FileIdentity { device, inode }: kept::FileIdentity) -> Self {
        Self { device, inode }
    }
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.inode)
    }
}
