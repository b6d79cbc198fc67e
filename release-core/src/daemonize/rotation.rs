//! Log files that are rotated when they are large.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::log_files::{LogFiles, refuse_foreign};
use crate::{Error, ErrorKind};

/// When log files are rotated, and how many are kept.
#[derive(Debug)]
pub(crate) struct Rotation {
    /// Size from which on a file is rotated, in bytes.
    pub(crate) size: u64,
    /// Number of earlier files that are kept.
    pub(crate) keep: u32,
    /// Whether the latest one has failed.
    pub(crate) is_failing: bool,
    /// Whether a file has another name and was not opened again since.
    pub(crate) is_moved: bool,
}

impl Rotation {
    pub(crate) fn new(size: u64, keep: u32) -> Self {
        Self { size: size.max(1), keep, is_failing: false, is_moved: false }
    }
}

impl LogFiles {
    /// Refuses names under which a rotation would replace a log file, or one of these `others`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`](crate::ErrorKind::Usage) if there is such a name.
    pub(crate) fn check_rotation(&self, keep: u32, others: &[&Path]) -> Result<(), Error> {
        for path in self.paths() {
            let endangered = self.paths().chain(others.iter().copied());
            let mut endangered = endangered.filter(|other| is_rotated_to(path, other, keep));
            if let Some(other) = endangered.next() {
                let (path, other) = (path.display(), other.display());
                let message = format!(
                    "the rotation of the log file {path} would replace {other}: it keeps earlier files \
                     as {path}.1 to {path}.{keep}, and makes {path}.next; give one of them another name"
                );
                return Err(Error::new(ErrorKind::Usage, message));
            }
        }
        Ok(())
    }

    /// Renames the files that have reached the size, and puts new ones in their place. Sets `is_moved` if
    /// there is any: then they must be opened again.
    ///
    /// The new file is created first. Without it, on a full disk for example, nothing changes.
    pub(crate) fn rotate(&self, rotation: &mut Rotation) -> Result<(), Error> {
        let mut paths: Vec<_> = self.paths().collect();
        paths.dedup();
        let (size, mut outcome) = (rotation.size, Ok(()));
        for path in paths.into_iter().filter(|path| is_due(path, size)) {
            let rotated = refuse_foreign(path).and_then(|()| {
                let rotated = rotate(path, rotation.keep);
                rotation.is_moved |= rotated.is_ok() || !path.exists();
                rotated.map_err(|error| {
                    Error::system(format!("cannot rotate the log file {}", path.display()), error)
                })
            });
            outcome = outcome.and(rotated);
        }
        outcome
    }
}

/// Returns whether a rotation of `path` gives a file the name `other`, or that of the file which a link
/// `other` leads to.
fn is_rotated_to(path: &Path, other: &Path, keep: u32) -> bool {
    let path = in_directory(path);
    [in_directory(other), fs::canonicalize(other).unwrap_or_default()].iter().any(|other| {
        let other = other.as_os_str().as_encoded_bytes();
        let suffix = other.strip_prefix(path.as_os_str().as_encoded_bytes());
        let suffix = suffix.and_then(|rest| std::str::from_utf8(rest.strip_prefix(b".")?).ok());
        let is_number = |text: &str| {
            let number = text.parse().ok().filter(|number| (1..=keep).contains(number));
            number.is_some_and(|number| number.to_string() == text)
        };
        suffix.is_some_and(|suffix| suffix == "next" || is_number(suffix))
    })
}

/// Resolves the directory of a file, which a rename follows, unlike the file itself.
fn in_directory(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().and_then(|directory| fs::canonicalize(directory).ok());
    directory.zip(path.file_name()).map(|(directory, name)| directory.join(name)).unwrap_or(path)
}

/// A device, a link or a file with another name is none to rotate.
fn is_due(path: &Path, size: u64) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.nlink() == 1 && found.len() >= size)
}

fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let next = numbered(path, "next");
    // Of a rotation that did not come to its end.
    unless_missing(fs::remove_file(&next))?;
    drop(File::options().append(true).create_new(true).mode(0o640).open(&next)?);
    let name = |number: u32| numbered(path, &number.to_string());
    // Those after a gap stay where they are.
    let is_free = |number: &u32| fs::symlink_metadata(name(*number)).is_err();
    let last = (1..keep).find(is_free).unwrap_or(keep);
    for number in (1..last).rev() {
        unless_missing(fs::rename(name(number), name(number + 1)))?;
    }
    if keep > 0 {
        fs::rename(path, name(1))?;
    }
    fs::rename(next, path)
}

fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the path with this behind its name.
fn numbered(path: &Path, number: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(number);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// The contents of the log file and those before it.
        fn all(&self) -> Vec<String> {
            let read = |name| fs::read_to_string(self.path(name)).ok();
            ["log", "log.1", "log.2", "log.3", "log.next"].into_iter().filter_map(read).collect()
        }

        fn rotate(&self, size: u64, keep: u32) -> Result<bool, Error> {
            let path = self.path("log");
            let files = LogFiles::new(Some(&path), Some(&path)).unwrap();
            let mut rotation = Rotation::new(size, keep);
            files.rotate(&mut rotation).map(|()| rotation.is_moved)
        }
    }

    #[test]
    fn the_latest_files_are_kept() {
        let place = Place(tempfile::tempdir().unwrap());
        assert!(!place.rotate(1, 2).unwrap(), "there is none");
        for number in 1..=4 {
            fs::write(place.path("log"), number.to_string()).unwrap();
            assert!(!place.rotate(2, 2).unwrap(), "it is small");
            assert!(place.rotate(1, 2).unwrap());
        }
        assert_eq!(place.all(), ["", "4", "3"]);
        fs::write(place.path("log"), "5").unwrap();
        assert!(place.rotate(1, 0).unwrap());
        assert_eq!(place.all(), ["", "4", "3"]);
    }

    #[test]
    fn a_rotation_that_would_replace_another_file_is_refused() {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("d")).unwrap();
        symlink(place.path("d"), place.path("link")).unwrap();
        fs::write(place.path("d/log.2"), "").unwrap();
        symlink(place.path("d/log.2"), place.path("other")).unwrap();
        let refused = |output: &str, error: &str, lock: &str| {
            let [output, error, lock] = [output, error, lock].map(|name| place.path(name));
            let files = LogFiles::new(Some(&output), Some(&error)).unwrap();
            files.check_rotation(3, &[&lock]).is_err()
        };
        for (output, error, lock) in [
            ("log", "log.1", "pid"),
            ("log.3", "log", "pid"),
            ("log", "log.next", "pid"),
            ("log", "d/../log.2", "pid"),
            ("d/log", "link/log.1", "pid"),
            ("link/log", "other", "pid"),
            ("log", "err", "log.1"),
            ("log.1", "log.1.1", "pid"),
        ] {
            assert!(refused(output, error, lock), "{output} {error} {lock}");
        }
        for (output, error) in [
            ("log", "log"),
            ("log", "log.0"),
            ("log", "log.4"),
            ("log", "log.01"),
            ("log", "log.x"),
            ("log", "d/log.1"),
            ("log", "catalog.1"),
        ] {
            assert!(!refused(output, error, "pid"), "{output} {error}");
        }
    }

    #[test]
    fn without_a_new_file_nothing_changes() {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.path("log"), "log").unwrap();
        fs::write(place.path("log.1"), "earlier").unwrap();
        // It cannot be removed, nor opened.
        fs::create_dir(place.path("log.next")).unwrap();
        let why = place.rotate(1, 3).unwrap_err().report();
        assert!(why.contains("cannot rotate the log file"), "{why}");
        assert_eq!(place.all(), ["log", "earlier"]);
        fs::remove_dir(place.path("log.next")).unwrap();
        // What another rotation has left behind.
        fs::write(place.path("log.next"), "half").unwrap();
        assert!(place.rotate(1, 3).unwrap());
        assert_eq!(place.all(), ["", "log", "earlier"]);
    }

    #[test]
    fn links_lead_nowhere() {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.path("precious"), "precious").unwrap();
        symlink(place.path("precious"), place.path("log")).unwrap();
        assert!(!place.rotate(1, 2).unwrap(), "a link is not rotated");
        fs::remove_file(place.path("log")).unwrap();
        fs::write(place.path("log"), "log").unwrap();
        for name in ["log.next", "log.1", "log.2"] {
            symlink(place.path("precious"), place.path(name)).unwrap();
        }
        assert!(place.rotate(1, 2).unwrap());
        assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "precious");
        assert!(fs::symlink_metadata(place.path("log")).unwrap().is_file());
        assert_eq!(fs::read_to_string(place.path("log.1")).unwrap(), "log");
    }
}
