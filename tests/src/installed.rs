//! Programs that are replaced while they run.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Backend, Process, Program};

/// A program at a path of its own, where another version can take its place.
#[derive(Debug)]
pub struct Installed {
    directory: TempDir,
    path: PathBuf,
}

impl Installed {
    /// A copy of an example.
    #[must_use]
    pub fn new(backend: Backend, example: &str) -> Self {
        Self::of(example, &backend.program(example))
    }

    fn of(example: &str, program: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("a mode");
        let installed = Self { path: directory.path().join(example), directory };
        installed.install(program);
        installed
    }

    /// A copy of `release`.
    #[must_use]
    pub fn cli() -> Self {
        Self::of("release", &Program::release_path())
    }

    /// The program, to be started.
    #[must_use]
    pub fn program(&self) -> Program {
        Program::of(Command::new(&self.path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a copy of another program in its place, in one step.
    pub fn install(&self, program: &Path) {
        let new = self.directory.path().join("new");
        copy_program(program, &new);
        fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("a mode");
        fs::rename(&new, &self.path).expect("it is replaced");
    }

    /// Puts a shell script in its place.
    pub fn install_script(&self, script: &str) {
        let text = self.directory.path().join("script");
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).expect("a script");
        self.install(&text);
    }

    /// Whether a process runs the file that is at the path now.
    #[must_use]
    pub fn is_run_by(&self, process: Process) -> bool {
        let runs = fs::metadata(process.path("exe")).ok().map(|file| (file.dev(), file.ino()));
        let there = fs::metadata(&self.path).expect("a file");
        runs == Some((there.dev(), there.ino()))
    }
}

/// Copies a program that is to be executed at once.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    // By another process: a child that some other test forks at this moment would inherit what this
    // one writes to, and until that child's exec nobody could execute the copy (ETXTBSY).
    let copied = Command::new("cp").args([from, to]).status().expect("cp runs");
    assert!(copied.success(), "{} is copied", from.display());
}
