//! How this process was started, for its next version to be started alike.

use std::ffi::{CString, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::daemon::environment::entry;
use crate::daemon::group::c_string;
use crate::sys::image::Image;

/// What the program found when [`Master::run`](crate::Master::run) began.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Where its next version will be.
    pub(super) executable: PathBuf,
    pub(super) directory: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Origin {
    /// This process, whose `executable` an earlier image of it has found out, or is yet to be found.
    pub(crate) fn here(executable: Option<PathBuf>) -> Result<Self, Error> {
        let directory = working_directory()?;
        let arguments = std::env::args_os();
        let environment = std::env::vars_os().map(|(name, value)| entry(&name, value));
        Ok(Self {
            executable: executable.map_or_else(|| find_executable(&directory), Ok)?,
            directory,
            arguments: arguments.map(c_string).collect::<Result<_, _>>()?,
            environment: environment.collect::<Result<_, _>>()?,
        })
    }

    /// The next version, with one more variable in its environment.
    pub(super) fn image(&self, name: &str, value: String) -> Result<Image, Error> {
        let mut environment = self.environment.clone();
        environment.push(entry(name.as_ref(), value.into())?);
        Ok(Image {
            program: c_string(self.executable.clone().into())?,
            arguments: self.arguments.clone(),
            environment,
        })
    }

    /// What tells one file at the executable's path from another one.
    pub(super) fn version(&self) -> Result<[i64; 5], Error> {
        let file = std::fs::metadata(&self.executable).map_err(|error| {
            let path = self.executable.display();
            Error::system(format!("cannot examine the executable {path}"), error)
        })?;
        let numbers = [file.dev(), file.ino(), file.size()].map(u64::cast_signed);
        let [device, inode, size] = numbers;
        Ok([device, inode, size, file.mtime(), file.mtime_nsec()])
    }
}

/// The directory by the name that the shell had for it, if it has one: where a link in its path is
/// turned to another release, the next version starts there.
fn working_directory() -> Result<PathBuf, Error> {
    let here = std::env::current_dir()
        .map_err(|error| Error::system("cannot read the working directory", error))?;
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(named.filter(|path| is_same(path, &here)).unwrap_or(here))
}

/// The path that this process was started by, if that is the file that runs; links in it are not
/// followed, so that one can be turned to a new version.
fn find_executable(directory: &Path) -> Result<PathBuf, Error> {
    let this = Path::new("/proc/self/exe");
    let name = std::env::args_os().next().unwrap_or_default();
    let found = candidates(name, directory).find(|path| is_same(path, this));
    found.map_or_else(
        || {
            let path = std::fs::read_link(this)
                .map_err(|error| Error::system("cannot read /proc/self/exe", error))?;
            // What the kernel says when another file has taken the path already.
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

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
