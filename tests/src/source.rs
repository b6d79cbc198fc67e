//! The files of this repository.

use std::path::{Path, PathBuf};

/// A file of the repository, or of the copy that `RELEASE_SOURCES` names: an ordinary user may not
/// be able to reach the place where the tests were built.
#[must_use]
pub fn source(path: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("RELEASE_SOURCES").map_or_else(built, PathBuf::from).join(path)
}
