//! The lock file: the lock decides which process runs, the number in the file is information.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::sys::fds::{duplicate_from, keep_over_exec, try_lock};
use crate::trusted::{Writers, check_file, check_path};
use crate::{Error, ErrorKind};

/// Time that a starter that lost waits for the winner to write its number.
const WRITING_TIME: Duration = Duration::from_secs(1);

/// A file that one process keeps locked for its whole life, and that contains its pid.
///
/// The kernel releases the lock when the process ends for any reason. A leftover file, or a reused
/// process number in it, therefore never prevents a start. The descriptor is not passed to workers,
/// as they would keep the lock.
///
/// Removed on drop if the file at the path is still the locked file.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    /// Takes the lock, or returns an error that names its holder. Never waits for the lock.
    pub(crate) fn acquire(path: &Path) -> Result<Self, Error> {
        loop {
            let mut writable = open(path)?;
            // A program that inherits the lock can read the number but not change it.
            let file = readable(&writable).map_err(|error| cannot("open", path, error))?;
            // The previous holder may remove the file between these two calls. The lock is then on
            // a file without a name, and another starter may hold the named file.
            let is_locked = match try_lock(&file) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) => return Err(cannot("lock", path, error)),
            };
            match (is_at(&file, path)?, is_locked) {
                (false, _) => {}
                (true, false) => return Err(held(path, &file)),
                (true, true) => {
                    let written =
                        write_pid(&mut writable).map_err(|error| cannot("write", path, error));
                    let lock = Self { path: path.to_owned(), file };
                    return written.map(|()| lock);
                }
            }
        }
    }

    /// Restores the lock that an earlier image of this process took and still holds.
    pub(crate) fn held(path: PathBuf, file: OwnedFd) -> Result<Self, Error> {
        let file = File::from(file);
        match try_lock(&file) {
            Ok(()) => Ok(Self { path, file }),
            Err(error) => Err(cannot("keep", &path, error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a duplicate that also holds the lock, for the next image of this process.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, Error> {
        duplicate_from(self.file.as_fd(), 3).map_err(|error| cannot("duplicate", &self.path, error))
    }
}

impl LockFile {
    /// Passes the lock on to the program that takes this process's place.
    pub(crate) fn keep_over_exec(&self) -> Result<(), Error> {
        keep_over_exec(&self.file).map_err(|error| cannot("keep", &self.path, error))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Still locked: no other process can have taken it over meanwhile.
        if is_at(&self.file, &self.path).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens or creates the file without following a link or truncating its content. Rejects anything
/// but a plain file with a single name.
fn open(path: &Path) -> Result<File, Error> {
    // A user who can write the number controls the target of `kill $(cat file)`.
    let unsafe_for_root = |why: String| refused(path, &format!("is not safe for root: {why}"));
    check_path(path, Writers::Nobody).map_err(unsafe_for_root)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // A read-only descriptor suffices for a lock: other users get no access, or they could hold
        // it.
        .mode(0o600)
        // O_NONBLOCK: a FIFO at the path must not block a starter.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => refused(path, "is a symbolic link, which is not followed"),
            Some(libc::EISDIR) => refused(path, "is a directory"),
            // The error of opening a socket.
            Some(libc::ENXIO) => refused(path, "is not a plain file"),
            _ => {
                Error::making(format!("cannot open the lock file {}", path.display()), path, error)
            }
        })?;
    let metadata = file.metadata().map_err(|error| cannot("examine", path, error))?;
    if !metadata.is_file() {
        return Err(refused(path, "is not a plain file"));
    }
    if metadata.nlink() > 1 {
        return Err(refused(path, "has another name (a hard link), whose content would be lost"));
    }
    check_file(&metadata).map_err(unsafe_for_root)?;
    Ok(file)
}

/// Opens the same file for reading.
fn readable(file: &File) -> io::Result<File> {
    let opened = || File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    opened().or_else(|_| {
        // It was just created, with a mask that denies even its owner access.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        opened()
    })
}

fn is_at(file: &File, path: &Path) -> Result<bool, Error> {
    let mine = file.metadata().map_err(|error| cannot("examine", path, error))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(mine.dev() == there.dev() && mine.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("examine", path, error)),
    }
}

/// Replaces the content with this process's number. A concurrent reader never sees it shorter.
fn write_pid(file: &mut File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)?;
    file.flush()
}

/// Returns the error of the starter that lost.
///
/// The winner writes its number right after it has locked the file. If the number is missing, or is
/// that of a dead predecessor, this waits for a moment.
#[cold]
fn held(path: &Path, file: &File) -> Error {
    let deadline = Instant::now() + WRITING_TIME;
    let holder = loop {
        match read_pid(file).filter(|pid| is_alive(*pid)) {
            Some(pid) => break Some(pid),
            None if Instant::now() >= deadline => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let who = holder.map_or_else(
        || "a process that has not written its number".to_owned(),
        |pid| format!("process {pid}"),
    );
    let message = format!("already running: {} is held by {who}", path.display());
    Error::new(ErrorKind::AlreadyRunning, message)
}

fn read_pid(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    io::Seek::rewind(&mut file).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok().filter(|pid| *pid > 1 || std::process::id() == 1)
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cold]
fn cannot(what: &str, path: &Path, error: impl Into<io::Error>) -> Error {
    Error::system(format!("cannot {what} the lock file {}", path.display()), error)
}

#[cold]
fn refused(path: &Path, why: &str) -> Error {
    let message = format!("the lock file {} {why}; name another path", path.display());
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn holds_our_number_and_goes_when_dropped() {
        let directory = directory();
        let path = directory.path().join("lock");
        let lock = LockFile::acquire(&path).unwrap();
        let content = std::fs::read_to_string(&path).unwrap();
        assert_eq!(content, format!("{}\n", std::process::id()));
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_one_is_refused_and_names_the_first() {
        let directory = directory();
        let path = directory.path().join("lock");
        let _lock = LockFile::acquire(&path).unwrap();
        let error = LockFile::acquire(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyRunning);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn whatever_an_unlocked_file_says_does_not_stop_a_start() {
        let directory = directory();
        let path = directory.path().join("lock");
        for content in ["", "garbage", "1\n", "-1", "0", "99999999999999999999\n", "\0\u{ff}"] {
            std::fs::write(&path, content.repeat(3)).unwrap();
            let lock = LockFile::acquire(&path).unwrap();
            let now = std::fs::read_to_string(&path).unwrap();
            assert_eq!(now, format!("{}\n", std::process::id()), "after {content:?}");
            drop(lock);
        }
    }

    #[test]
    fn links_and_other_things_at_the_path_are_refused_and_untouched() {
        let directory = directory();
        let target = directory.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        let path = directory.path().join("lock");
        let refuse = |what: &str| {
            let error = LockFile::acquire(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{what}: {error}");
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious", "{what}");
        };
        std::os::unix::fs::symlink(&target, &path).unwrap();
        refuse("symbolic link");
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&target, &path).unwrap();
        refuse("hard link");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refuse("FIFO");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refuse("directory");
        std::fs::remove_dir(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        refuse("socket");
    }

    #[test]
    fn a_file_that_was_replaced_is_not_removed() {
        let directory = directory();
        let path = directory.path().join("lock");
        let lock = LockFile::acquire(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        drop(lock);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody else's");
    }
}
