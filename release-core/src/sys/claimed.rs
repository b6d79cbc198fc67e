//! The children that this library waits for; the reaper handles all others.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;

/// A number may occur twice: the kernel reuses it after its first child was reaped.
static CLAIMED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// The number of a child that no other code reaps while this exists.
#[derive(Debug)]
pub(crate) struct Claimed(Pid);

impl Claimed {
    pub(crate) fn new(pid: Pid) -> Self {
        claimed().push(pid);
        Self(pid)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut claimed = claimed();
        if let Some(index) = claimed.iter().position(|pid| *pid == self.0) {
            claimed.swap_remove(index);
        }
    }
}

/// Returns whether this library waits for this child.
pub(super) fn is_claimed(pid: Pid) -> bool {
    claimed().contains(&pid)
}

fn claimed() -> MutexGuard<'static, Vec<Pid>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}
