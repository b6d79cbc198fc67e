//! The command-line programs.

use std::path::{Path, PathBuf};

use crate::Program;

impl Program {
    /// The program `release`.
    #[must_use]
    pub fn release() -> Self {
        Self::cli("cli-release")
    }

    /// The program `socketmaster`.
    #[must_use]
    pub fn socketmaster() -> Self {
        Self::cli("cli-socketmaster")
    }

    /// Where `release` is, for programs that start it.
    #[must_use]
    pub fn release_path() -> PathBuf {
        path("cli-release")
    }

    fn cli(name: &str) -> Self {
        Self::command(&["env"], &path(name))
    }
}

fn path(name: &str) -> PathBuf {
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let test = std::env::current_exe().expect("this test's path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE");
    profile.join(name)
}
