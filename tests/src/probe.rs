//! The test program `probe`, whose workers behave as they are told.

use std::path::Path;

use crate::{Backend, Program, Running};

impl Program {
    /// A master whose workers behave so; see `tests/programs/probe/worker.rs`.
    #[must_use]
    pub fn probe(backend: Backend, behaviour: &str) -> Self {
        Self::new(backend, "probe").as_master(behaviour)
    }

    /// What makes `probe` a master, for one that is not started directly.
    #[must_use]
    pub fn as_master(self, behaviour: &str) -> Self {
        tell(&self.path("behaviour"), behaviour);
        tell(&self.path("configuration"), "first");
        self.args(["master", "--user", "nobody"]).args([
            "--control",
            "control",
            "--lock-file",
            "lock",
        ])
    }
}

impl Running {
    /// Tells workers of `probe` that start from now on how to behave.
    pub fn tell(&self, behaviour: &str) {
        tell(&self.path("behaviour"), behaviour);
    }

    /// Changes what workers of `probe` are told after the next reload.
    pub fn configure(&self, text: &str) {
        tell(&self.path("configuration"), text);
    }
}

/// In one step: a worker that starts meanwhile is told the old or the new.
fn tell(path: &Path, behaviour: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, behaviour).expect("the behaviour is written");
    std::fs::rename(&new, path).expect("the behaviour is replaced");
}
