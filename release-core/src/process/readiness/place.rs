//! A directory for the sockets at which foreign workers say that they are ready.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, Uid, access, chown, geteuid};

use crate::Error;
use crate::sys::fds::try_lock;

const PREFIX: &str = "release-sockets-";

/// How often a directory is made anew that another master has taken for a dead one's.
const TRIES: usize = 10;

/// Where sockets are that belong to this user, if it is another than this process's: in a directory,
/// which is made again when somebody has removed it.
#[derive(Debug)]
pub(super) struct Place {
    owner: Option<Uid>,
    directory: Mutex<Arc<Directory>>,
}

/// A directory that only this user may look into and only the workers' user may use. Dropping it
/// removes it; what a master leaves that was killed, the next one removes.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    last: AtomicU32,
    /// Locked as long as somebody uses it.
    _lock: File,
}

impl Place {
    pub(super) fn new(owner: Option<Uid>) -> Result<Self, Error> {
        Ok(Self { owner, directory: Mutex::new(Arc::new(Directory::new(owner)?)) })
    }

    /// The path of a new socket. `bind` makes it.
    pub(super) fn socket<T>(
        &self,
        bind: impl Fn(&Path) -> nix::Result<T>,
    ) -> Result<(T, SocketFile), Error> {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = directory.socket(self.owner, &bind);
        if let Err((Errno::ENOENT, _)) = made {
            tracing::warn!(path = %directory.path.display(), "the directory of sockets was removed");
            *directory = Arc::new(Directory::new(self.owner)?);
            made = directory.socket(self.owner, &bind);
        }
        made.map_err(|(errno, path)| {
            Error::system(format!("cannot make the socket {}", path.display()), errno)
        })
    }
}

impl Directory {
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
                    let directory = Self { path, last: AtomicU32::new(0), _lock: lock };
                    return directory.open_to(owner);
                }
                Err(other) => error = other,
            }
        }
        Err(failed(error))
    }

    /// Who does not know the name of a socket finds none.
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
    ) -> Result<(T, SocketFile), (Errno, PathBuf)> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        let file = SocketFile { path: path.clone(), _directory: Arc::clone(self) };
        let made = bind(&file.path).and_then(|socket| {
            chown(&file.path, owner, None)?;
            Ok((socket, file))
        });
        made.map_err(|errno| (errno, path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// A socket's file, removed when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    _directory: Arc<Directory>,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `/run` for root, a user's own directory of that kind; or where temporary files go, as in a container
/// that is read-only but for those, or in an environment that is another user's.
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

/// Removes what masters left that were killed: their directories are locked by nobody.
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
        let place = Place::new(None).unwrap();
        let path = place.directory.lock().unwrap().path.clone();
        let bind = |path: &Path| Ok(UnixListener::bind(path).unwrap());
        let (_socket, file) = place.socket(bind).unwrap();
        assert!(file.path().exists());
        let left = nix::unistd::mkdtemp(&base().join(format!("{PREFIX}XXXXXX"))).unwrap();
        std::fs::write(left.join("0"), "").unwrap();
        sweep();
        assert!(!left.exists() && file.path().exists());
        drop(place);
        assert!(file.path().exists());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_was_removed_is_made_again() {
        let place = Place::new(None).unwrap();
        let bind = |path: &Path| {
            UnixListener::bind(path).map_err(|it| Errno::from_raw(it.raw_os_error().unwrap_or(0)))
        };
        let (_first, old) = place.socket(bind).unwrap();
        std::fs::remove_dir_all(old.path().parent().unwrap()).unwrap();
        let (_second, new) = place.socket(bind).unwrap();
        assert!(new.path().exists() && new.path().parent() != old.path().parent());
        let directory = new.path().parent().unwrap().to_owned();
        drop((old, new, place));
        assert!(!directory.exists());
    }
}
