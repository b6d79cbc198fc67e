//! How this process was started, for its next version to be started alike.

use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::path::c_string;
use crate::process::environment::entry;
use crate::sys::image::way_back::VARIABLE;
use crate::{Error, ErrorKind};

/// Identity of one file at the executable's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

/// Arguments, environment and location of the program when [`Master::run`](crate::Master::run) began.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(super) arguments: Vec<CString>,
    environment: Vec<CString>,
    /// An error is kept: a master that cannot be upgraded runs nevertheless.
    location: Result<Location, String>,
}

#[derive(Debug)]
pub(super) struct Location {
    /// Path of the next version.
    pub(super) executable: PathBuf,
    pub(super) directory: PathBuf,
    /// The directory without links. Its descriptor is not kept: a daemon pins no file system.
    resolved: PathBuf,
}

impl Invocation {
    /// Describes this process. An earlier image of it may have found the `executable`.
    pub(crate) fn here(executable: Option<PathBuf>) -> Self {
        let environment = std::env::vars_os().map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            entry
        });
        // The kernel has given them without NUL bytes.
        let c_strings = |texts: Vec<OsString>| texts.into_iter().flat_map(c_string).collect();
        Self {
            arguments: c_strings(std::env::args_os().collect()),
            environment: c_strings(environment.collect()),
            location: Location::find(executable).map_err(|error| error.report()),
        }
    }

    pub(super) fn location(&self) -> Result<&Location, Error> {
        self.location.as_ref().map_err(|why| {
            let message = format!("it is not known how this version was started: {why}");
            Error::new(ErrorKind::Change, message)
        })
    }

    /// Returns arguments and environment of the next version as a child, and whether there is a socket
    /// activation of this process, which is the child's then.
    pub(super) fn trial(&self, value: &str) -> Result<(Vec<CString>, Vec<CString>, bool), Error> {
        let mut environment = self.told(value)?;
        let own = format!("LISTEN_PID={}", std::process::id());
        let count = environment.len();
        environment.retain(|entry| entry.as_bytes() != own.as_bytes());
        let is_activated = environment.len() < count;
        Ok((self.arguments.clone(), environment, is_activated))
    }

    /// Returns the environment, with one more variable for an image of this process.
    pub(super) fn told(&self, value: &str) -> Result<Vec<CString>, Error> {
        let mut environment = self.environment.clone();
        let name = VARIABLE.to_string_lossy().into_owned();
        environment.push(entry(name.as_ref(), value.into())?);
        Ok(environment)
    }
}

impl Location {
    fn find(executable: Option<PathBuf>) -> Result<Self, Error> {
        let directory = working_directory()?;
        let executable = executable.map_or_else(|| find_executable(&directory), Ok)?;
        let resolved = std::fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone());
        Ok(Self { executable, directory, resolved })
    }

    /// Opens the directory of this version for the way back; the root directory if its own has been
    /// removed.
    pub(super) fn way_back(&self) -> Result<OwnedFd, Error> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        let opened = options.open(&self.resolved).or_else(|_| options.open("/"));
        let failed = |error| Error::system("cannot open the root directory", error);
        opened.map(OwnedFd::from).map_err(failed)
    }

    /// Returns the identity of the file at the executable's path.
    pub(super) fn version(&self) -> Result<Version, Error> {
        let file = std::fs::metadata(&self.executable).map_err(|error| {
            let path = self.executable.display();
            Error::system(format!("cannot examine the executable {path}"), error)
        })?;
        Ok(Version {
            file: (file.dev(), file.ino()),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Opens the file that this process runs, which may no longer be at its path.
pub(crate) fn own_image() -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(libc::O_PATH).open("/proc/self/exe");
    let failed = |error| Error::system("cannot open the present executable", error);
    opened.map(OwnedFd::from).map_err(failed)
}

/// Returns the working directory by its name in the shell, if it has one: if a deployment points a link
/// in its path to another release, the next version starts there.
pub(crate) fn working_directory() -> Result<PathBuf, Error> {
    let here = std::env::current_dir()
        .map_err(|error| Error::system("cannot read the working directory", error))?;
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(named.filter(|path| is_same(path, &here)).unwrap_or(here))
}

/// Returns the path that this process was started by, if it leads to the running file. Links in it are
/// not followed, so that a deployment can point them to a new version.
fn find_executable(directory: &Path) -> Result<PathBuf, Error> {
    let this = Path::new("/proc/self/exe");
    let name = std::env::args_os().next().unwrap_or_default();
    let found = candidates(name, directory).find(|path| is_same(path, this));
    found.map_or_else(
        || {
            let path = std::fs::read_link(this)
                .map_err(|error| Error::system("cannot read /proc/self/exe", error))?;
            // The kernel adds this word when another file has taken the path already.
            let name = path.to_string_lossy();
            Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
        },
        Ok,
    )
}

fn candidates(name: OsString, directory: &Path) -> impl Iterator<Item = PathBuf> {
    let has_slash = name.as_encoded_bytes().contains(&b'/');
    let search = std::env::var_os("PATH").filter(|_| !has_slash).unwrap_or_default();
    let places: Vec<_> = std::env::split_paths(&search).collect();
    let places = if has_slash { vec![PathBuf::new()] } else { places };
    let directory = directory.to_owned();
    places.into_iter().map(move |place| directory.join(place).join(&name))
}

pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
