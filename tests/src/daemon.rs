//! Daemons: processes that are nobody's children.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::installed::copy_program;
use crate::{Backend, Process, children, eventually, is_alive};

/// A daemon. Dropping it kills it, and its workers with it.
#[derive(Debug)]
pub struct Daemon {
    master: Process,
}

impl Daemon {
    /// The daemon whose number is in the lock file.
    #[must_use]
    pub fn named_in(lock: &Path) -> Self {
        let text = std::fs::read_to_string(lock).expect("a lock file");
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("a number and nothing else: {text:?}"));
        assert!(is_alive(pid), "process {pid} does not live");
        Self { master: Process(pid) }
    }

    /// The master.
    #[must_use]
    pub fn process(&self) -> Process {
        self.master
    }

    /// Its workers.
    #[must_use]
    pub fn workers(&self) -> Vec<Process> {
        children(self.master.0)
    }

    /// Stops it in order.
    pub fn stop(self) {
        self.end_by(Signal::SIGTERM);
    }

    fn end_by(&self, signal: Signal) {
        let workers = self.workers();
        self.master.signal(signal);
        eventually("the daemon and its workers end", || {
            !is_alive(self.master.0) && workers.iter().all(|worker| !is_alive(worker.0))
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !is_alive(self.master.0) {
            return;
        }
        match std::thread::panicking() {
            true => self.master.signal(Signal::SIGKILL),
            false => self.end_by(Signal::SIGKILL),
        }
    }
}

/// A copy of a program where every user can run it, unlike root's target directory.
#[must_use]
pub fn open_to_all(backend: Backend, example: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("a mode");
    let copy = directory.path().join(example);
    copy_program(&backend.program(example), &copy);
    (directory, copy)
}
