//! Paths and arguments in the form that the system takes.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind};

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| {
        Error::system(format!("cannot resolve the path {}", path.display()), error)
    })
}

pub(crate) fn c_string(text: OsString) -> Result<CString, Error> {
    CString::new(text.into_vec()).map_err(|error| {
        Error::new(ErrorKind::Usage, "a command line holds a NUL byte").caused_by(error)
    })
}
