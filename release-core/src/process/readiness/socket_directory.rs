//! A directory for the sockets through which commands report their readiness.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, Uid, access, chown, geteuid};

use super::duplicate;
use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::sys::fds::try_lock;

const PREFIX: &str = "release-sockets-";

/// Maximum number of attempts, because another master may remove the new directory as an abandoned
/// one.
const TRIES: usize = 10;

/// Creates sockets for the user of the workers, if they have another user than this process.
/// Replaces the directory if it was removed.
#[derive(Debug)]
pub(super) struct SocketDirectory {
    owner: Option<Uid>,
    directory: Mutex<Arc<LockedDirectory>>,
}

/// A directory that only this user can list, and only the workers' user can use. Dropping it
/// removes it; directories of killed masters are removed by the next master.
#[derive(Debug)]
struct LockedDirectory {
    path: PathBuf,
    last: AtomicU32,
    /// Locked while the directory is in use.
    lock: File,
}

impl SocketDirectory {
    pub(super) fn new(owner: Option<Uid>) -> Result<Self, Error> {
        Ok(Self { owner, directory: Mutex::new(Arc::new(LockedDirectory::new(owner)?)) })
    }

    /// Creates a socket at a new path by calling `bind`.
    pub(super) fn socket<T>(
        &self,
        bind: impl Fn(&Path) -> nix::Result<T>,
    ) -> Result<(T, SocketPath), Error> {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = directory.socket(self.owner, &bind);
        if let Err((Errno::ENOENT, _)) = made {
            log_warning!(path = %directory.path.display(), "the directory of sockets was removed");
            *directory = Arc::new(LockedDirectory::new(self.owner)?);
            made = directory.socket(self.owner, &bind);
        }
        made.map_err(|(errno, path)| {
            Error::system(format!("cannot make the socket {}", path.display()), errno)
        })
    }
}

impl LockedDirectory {
    fn new(owner: Option<Uid>) -> Result<Self, Error> {
        let base = base();
        let failed = |error: io::Error| {
            let what = format!("cannot make a directory for sockets in {}", base.display());
            Error::system(what, error)
        };
        let mut error = io::ErrorKind::ResourceBusy.into();
        for _ in 0..TRIES {
            let path = nix::unistd::mkdtemp(&base.join(format!("{PREFIX}XXXXXX")))
                .map_err(|errno| failed(errno.into()))?;
            match lock(&path) {
                Ok(lock) => {
                    let directory = Self { path, last: AtomicU32::new(0), lock };
                    return directory.open_to(owner);
                }
                Err(other) => error = other,
            }
        }
        Err(failed(error))
    }

    /// Lets the workers' user use sockets whose name it knows.
    fn open_to(self, owner: Option<Uid>) -> Result<Self, Error> {
        if owner.is_some() {
            let mode = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(&self.path, mode).map_err(|error| {
                Error::system(format!("cannot open {} to workers", self.path.display()), error)
            })?;
        }
        Ok(self)
    }

    fn socket<T>(
        self: &Arc<Self>,
        owner: Option<Uid>,
        bind: impl Fn(&Path) -> nix::Result<T>,
    ) -> Result<(T, SocketPath), (Errno, PathBuf)> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        let file = SocketPath { path: path.clone(), directory: Arc::clone(self) };
        let made = bind(&file.path).and_then(|socket| {
            chown(&file.path, owner, None)?;
            Ok((socket, file))
        });
        made.map_err(|errno| (errno, path))
    }
}

impl Drop for LockedDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// The file of a socket. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketPath {
    path: PathBuf,
    directory: Arc<LockedDirectory>,
}

impl SocketPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file for the next version of the program. Its lock keeps others from removing the
    /// directory on the way.
    pub(super) fn keep(&self) -> Result<kept::SocketFile<Descriptor>, Error> {
        let directory = duplicate(&self.directory.lock)?;
        Ok(kept::SocketFile { path: self.path.clone().into(), directory })
    }

    /// Takes over the file from an earlier version. The last one of a directory removes it.
    pub(super) fn kept(file: kept::SocketFile<Descriptor>) -> Self {
        let path = PathBuf::from(file.path);
        let lock = File::from(OwnedFd::from(file.directory));
        let of = path.parent().unwrap_or(&path).to_owned();
        let directory = LockedDirectory { path: of, last: AtomicU32::new(0), lock };
        Self { path, directory: Arc::new(directory) }
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Returns `/run` for root, and the runtime directory of other users. Without such a directory, as
/// in a read-only container or with the environment of another user, returns the directory of
/// temporary files.
fn base() -> PathBuf {
    let run = match geteuid().is_root() {
        true => Some(PathBuf::from("/run")),
        false => std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
    };
    let suits =
        |run: &PathBuf| run.is_absolute() && run.is_dir() && access(run, AccessFlags::W_OK).is_ok();
    run.filter(suits).unwrap_or_else(std::env::temp_dir)
}

fn lock(path: &Path) -> io::Result<File> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(path)?;
    try_lock(&opened).map(|()| opened)
}

/// Removes the directories of killed masters: nothing locks them any more.
pub(super) fn sweep() {
    let base = base();
    let own = geteuid().as_raw();
    for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
        let is_one = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == own);
        if is_one && let Ok(_lock) = lock(&entry.path()) {
            let sockets = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            sockets.for_each(|socket| drop(std::fs::remove_file(socket.path())));
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_place_goes_with_its_last_socket_and_one_of_the_dead_with_the_next() {
        let sockets = SocketDirectory::new(None).unwrap();
        let path = sockets.directory.lock().unwrap().path.clone();
        let bind = |path: &Path| Ok(UnixListener::bind(path).unwrap());
        let (_socket, file) = sockets.socket(bind).unwrap();
        assert!(file.path().exists());
        let left = nix::unistd::mkdtemp(&base().join(format!("{PREFIX}XXXXXX"))).unwrap();
        std::fs::write(left.join("0"), "").unwrap();
        sweep();
        assert!(!left.exists() && file.path().exists());
        drop(sockets);
        assert!(file.path().exists());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_was_removed_is_made_again() {
        let sockets = SocketDirectory::new(None).unwrap();
        let bind = |path: &Path| {
            UnixListener::bind(path).map_err(|it| Errno::from_raw(it.raw_os_error().unwrap_or(0)))
        };
        let (_first, old) = sockets.socket(bind).unwrap();
        std::fs::remove_dir_all(old.path().parent().unwrap()).unwrap();
        let (_second, new) = sockets.socket(bind).unwrap();
        assert!(new.path().exists() && new.path().parent() != old.path().parent());
        let directory = new.path().parent().unwrap().to_owned();
        drop((old, new, sockets));
        assert!(!directory.exists());
    }
}
