//! Log files of a master or daemon, to which standard output and error are appended.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::path::absolute;
use crate::sys::fds::set_blocking;
use crate::sys::process::redirect;
use crate::trusted::{Writers, check_path};
use crate::{Error, ErrorKind};

/// The log files, by the descriptors that are appended to them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogFiles(Vec<(i32, PathBuf)>);

impl LogFiles {
    /// Resolves the paths of the files for standard output and error, where given.
    pub(crate) fn new(output: Option<&Path>, error: Option<&Path>) -> Result<Self, Error> {
        let named = [(1, output), (2, error)].into_iter();
        let named = named.filter_map(|(number, path)| Some((number, path?)));
        let resolved = named.map(|(number, path)| Ok((number, absolute(path)?)));
        resolved.collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(_, path)| path.as_path())
    }

    /// Opens or creates all files.
    pub(crate) fn open(&self) -> Result<Vec<(i32, File)>, Error> {
        self.0.iter().map(|(number, path)| Ok((*number, open(path)?))).collect()
    }

    /// Reopens the files by name. If a file cannot be opened, the previous files stay in use.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        if self.is_empty() {
            let message = "there are no log files to open again: \
                           the master has neither `output` nor `error`";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        self.redirect()
    }

    /// Redirects standard output and error to the files that have these names now.
    pub(crate) fn redirect(&self) -> Result<(), Error> {
        for (number, file) in self.open()? {
            redirect(number, &file)
                .map_err(|error| Error::system("cannot redirect standard output", error))?;
        }
        Ok(())
    }
}

/// Opens a log file without following links, and refuses a file with a second name: the directory
/// of a file that root appends to may be writable by others.
fn open(path: &Path) -> Result<File, Error> {
    refuse_foreign(path)?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        // O_NONBLOCK: a FIFO at the path must not make a master wait for its reader.
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => refused(path, "is a symbolic link, which is not followed"),
            Some(libc::ENXIO) => refused(path, "is neither a file nor a device"),
            _ => Error::making(format!("cannot open the log file {}", path.display()), path, error),
        })?;
    let metadata = file.metadata().map_err(|error| cannot("examine", path, error))?;
    if !metadata.is_file() && !metadata.file_type().is_char_device() {
        return Err(refused(path, "is neither a file nor a device"));
    }
    if metadata.is_file() && metadata.nlink() > 1 {
        return Err(refused(path, "has another name (a hard link)"));
    }
    set_blocking(&file).map_err(|error| cannot("set up", path, error))?;
    Ok(file)
}

/// Refuses a path that a user other than root controls, if this process is root.
pub(super) fn refuse_foreign(path: &Path) -> Result<(), Error> {
    check_path(path, Writers::Group)
        .map_err(|why| refused(path, &format!("is not safe for root: {why}")))
}

#[cold]
fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::system(format!("cannot {what} the log file {}", path.display()), error)
}

#[cold]
fn refused(path: &Path, why: &str) -> Error {
    let message = format!("the log file {} {why}; name another path", path.display());
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_belong_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (target, path) = (directory.path().join("target"), directory.path().join("log"));
        std::fs::write(&target, "").unwrap();
        let why = || open(&path).unwrap_err().report();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(why().contains("log is a symbolic link"), "{}", why());
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&target, &path).unwrap();
        assert!(why().contains("log has another name"), "{}", why());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(why().contains("neither a file nor a device"), "{}", why());
        let _reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert!(why().contains("neither a file nor a device"), "{}", why());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(why().contains("Is a directory"), "{}", why());
        open("/dev/null".as_ref()).unwrap();
    }

    #[test]
    fn nothing_is_replaced_when_one_cannot_be_opened() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad) = (directory.path().join("good"), directory.path().join("no/bad"));
        let files = LogFiles::new(Some(&good), Some(&bad)).unwrap();
        let before = std::fs::read_link("/proc/self/fd/1").unwrap();
        let why = files.reopen().unwrap_err().report();
        assert!(why.contains("no/bad: there is no directory "), "{why}");
        assert_eq!(std::fs::read_link("/proc/self/fd/1").unwrap(), before);
    }
}
