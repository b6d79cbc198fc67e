//! Binding: of a name in general, and of a path where somebody else's socket may be.

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
use serde::{Deserialize, Serialize};

use super::Address;
use super::Unix;
use super::address::kind::Kind;
use crate::{Error, ErrorKind};

/// How long another process may take from bind to listen before its socket counts as dead.
const UNTIL_IT_LISTENS: Duration = Duration::from_millis(20);

/// Gives a socket its address.
pub(super) fn bind<A: Address>(socket: &OwnedFd, address: &A) -> Result<(), Error> {
    let system = address.to_system()?;
    nix::sys::socket::bind(socket.as_raw_fd(), &system)
        .map_err(|errno| Error::system(format!("cannot bind {address}"), errno))
}

/// Gives a socket a path: one that nobody answers on is taken over, every other file stays. What
/// is to be done `then` is done before another process looks whether somebody answers.
pub(super) fn bind_path(
    socket: &OwnedFd,
    address: &Unix,
    path: &Path,
    then: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let system = address.to_system()?;
    let bind = || nix::sys::socket::bind(socket.as_raw_fd(), &system);
    let failed = |errno| Error::making(format!("cannot bind {address}"), path, errno);
    // Of several that find the same dead socket one must not remove what another has just bound. Where
    // nothing is, nobody has to be waited for.
    let directory = open_directory(path);
    directory.as_ref().into_iter().for_each(|directory| drop(directory.try_lock()));
    match bind() {
        Err(Errno::EADDRINUSE) => {
            directory.as_ref().into_iter().for_each(wait_for_lock);
            clear_the_way(path, &system)?;
            bind().map_err(failed)?;
        }
        bound => bound.map_err(failed)?,
    }
    set_mode(socket, path)
        .map_err(|errno| Error::system(format!("cannot set the mode of {address}"), errno))
        .and_then(|()| then())
        .inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Makes what the umask took from the mode whole again.
fn set_mode(socket: &OwnedFd, path: &Path) -> nix::Result<()> {
    let wanted = fstat(socket)?.st_mode & 0o777;
    let file = open_socket(path)?;
    if fstat(&file)?.st_mode & 0o777 == wanted {
        return Ok(());
    }
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    fchmodat(AT_FDCWD, &*file, Mode::from_bits_truncate(wanted), FchmodatFlags::FollowSymlink)
}

/// Gives a socket file another owner.
pub(crate) fn give_away(path: &Path, owner: Option<Uid>, group: Option<Gid>) -> nix::Result<()> {
    if owner.is_none() && group.is_none() {
        return Ok(());
    }
    fchownat(open_socket(path)?, "", owner, group, AtFlags::AT_EMPTY_PATH)
}

/// The file itself, which is a socket: whoever may write to its directory may put another file there
/// meanwhile, which is not to get its mode or owner.
fn open_socket(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(path, flags, Mode::empty())?;
    let is_socket = fstat(&file)?.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    if is_socket { Ok(file) } else { Err(Errno::ENOTSOCK) }
}

/// The directory, which is locked as long as this is open. Best effort: one that cannot be opened, or that
/// somebody keeps locked, must not keep a daemon from starting.
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
        if directory.try_lock().is_ok() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Removes a socket that a dead process left; everything else at the path is an error.
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

/// Whether a process has this socket. Only a refused connection says that there is none: a full
/// queue or a missing permission are a live one's.
fn is_answered(address: &UnixAddr) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let tried = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), address));
    !matches!(tried, Err(Errno::ECONNREFUSED | Errno::ENOENT))
}

/// Which file a path named at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// What [`Display`](fmt::Display) has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (device, inode) = text.split_once('-')?;
        Some(Self { device: device.parse().ok()?, inode: inode.parse().ok()? })
    }
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.inode)
    }
}
