//! A worker in Python that knows nothing of this project.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Program, Running};

impl Program {
    /// Has it run `any_worker.py`, which becomes ready in this way and ends by this signal.
    #[must_use]
    pub fn any_worker(self, how: &str, end: &str) -> Self {
        let (directory, script) = (self.path("."), self.path("worker.py"));
        std::fs::write(&script, include_str!("../programs/any_worker.py")).expect("a copy");
        // Every user is to read it.
        for path in [&directory, &script] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        // The first of PATH may be in root's home.
        let system = "/usr/bin/python3";
        let python = if Path::new(system).exists() { system } else { "python3" };
        self.args([python]).args([script]).args([how, end])
    }
}

impl Running {
    /// Has workers of this kind that start from now on do so: `well`, `crash`, `hang`, `shut`, `log` or `late`.
    pub fn behave(&self, how: &str) {
        std::fs::write(self.path("behave"), how).expect("a file");
    }
}
