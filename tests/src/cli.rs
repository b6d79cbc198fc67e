//! The command-line programs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Program;
use crate::installed::copy_program;

/// A command-line program, built for the tests.
fn built(name: &str) -> PathBuf {
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let test = std::env::current_exe().expect("this test's path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE");
    profile.join(name)
}

impl Program {
    /// The program `release`.
    #[must_use]
    pub fn release() -> Self {
        Self::release_under(&["env"])
    }

    /// The program `release`, started by another one, whose last argument it is.
    #[must_use]
    pub fn release_under(launcher: &[&str]) -> Self {
        Self::command(launcher, &Self::release_path())
    }

    /// Where `release` is.
    #[must_use]
    pub fn release_path() -> PathBuf {
        built("cli-release")
    }

    /// The program `socketmaster`.
    #[must_use]
    pub fn socketmaster() -> Self {
        Self::command(&["env"], &built("cli-socketmaster"))
    }
}

/// A copy of `release` where every user can run it, unlike root's target directory.
#[must_use]
pub fn release_open_to_all() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("a mode");
    let copy = directory.path().join("release");
    copy_program(&Program::release_path(), &copy);
    (directory, copy)
}
