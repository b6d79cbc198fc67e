//! How the latest process of each worker has ended, for `status`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use release_core::supervise::{KillReason, Report};

/// A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// In words, by worker.
    ends: HashMap<u32, String>,
    /// Why a process is being killed, by its number.
    killed: HashMap<i32, KillReason>,
}

impl Ends {
    pub(super) fn see(&self, report: &Report) {
        match report {
            Report::Killed { pid, reason, .. } => {
                self.known().killed.insert(*pid, reason.clone());
            }
            Report::Died { id, pid, exit, .. } => {
                let mut known = self.known();
                let end = match known.killed.remove(pid) {
                    Some(reason) => format!("killed: {reason}"),
                    None => exit.to_string(),
                };
                known.ends.insert(id.0, end);
            }
            _ => {}
        }
    }

    pub(super) fn of(&self, worker: u32) -> Option<String> {
        self.known().ends.get(&worker).cloned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
