//! Which program the workers of a group run.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::path::absolute;
use crate::start_files::looked_up;
use crate::{Error, ErrorKind};

#[derive(Clone, Debug)]
pub(crate) enum Program {
    ThisExecutable,
    Other { path: PathBuf, arguments: Vec<OsString> },
}

impl Program {
    pub(crate) fn is_this(&self) -> bool {
        matches!(self, Self::ThisExecutable)
    }

    /// The working directory may change before the first worker is started. What is relative is so to
    /// that of the workers, whose links are followed anew at each start.
    pub(crate) fn resolve(self, directory: &Path) -> Result<Self, Error> {
        match self {
            Self::ThisExecutable => Ok(self),
            Self::Other { path, arguments } => {
                Ok(Self::Other { path: absolute(&directory.join(path))?, arguments })
            }
        }
    }

    /// As a shell has it: a name without a slash is that of a program in `PATH`, in this root
    /// directory.
    pub(crate) fn find(self, root: &Path) -> Result<Self, Error> {
        match self {
            Self::Other { path, arguments }
                if !path.as_os_str().as_encoded_bytes().contains(&b'/') =>
            {
                let question = format!("PATH:{}:{}", root.display(), path.display());
                let path = looked_up(&question, || find(path.as_os_str(), root))?;
                Ok(Self::Other { path, arguments })
            }
            _ => Ok(self),
        }
    }
}

/// The first executable file of this name in the directories of `PATH`.
fn find(name: &OsStr, root: &Path) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let is_program = |file: &PathBuf| {
        let inside = file.strip_prefix("/").map_or_else(|_| file.clone(), |file| root.join(file));
        let metadata = std::fs::metadata(inside);
        metadata.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
    files.find(is_program).ok_or_else(|| {
        let (name, path) = (name.display(), path.display());
        let message = format!("there is no program `{name}` in PATH ({path})");
        Error::new(ErrorKind::Usage, message)
    })
}
