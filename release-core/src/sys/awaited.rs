//! The children that this library waits for, for whoever reaps all others.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;

static AWAITED: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

/// The number of a child that nobody else reaps for as long as this lives.
#[derive(Debug)]
pub(crate) struct Awaited(Pid);

impl Awaited {
    pub(crate) fn new(pid: Pid) -> Self {
        awaited().insert(pid);
        Self(pid)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        awaited().remove(&self.0);
    }
}

/// Whether somebody here waits for this child.
pub(super) fn is_awaited(pid: Pid) -> bool {
    awaited().contains(&pid)
}

fn awaited() -> MutexGuard<'static, BTreeSet<Pid>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}
