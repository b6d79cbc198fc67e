//! The command-line programs.

use std::path::Path;

use crate::Program;

impl Program {
    /// The program `release`.
    #[must_use]
    pub fn release() -> Self {
        // Tests are in target/PROFILE/deps, programs in target/PROFILE.
        let test = std::env::current_exe().expect("this test's path");
        let profile = test.parent().and_then(Path::parent).expect("target/PROFILE");
        Self::command(&["env"], &profile.join("cli-release"))
    }
}
