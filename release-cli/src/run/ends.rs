//! How the latest process of each worker has ended, for `status`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use release_core::supervise::Report;

/// A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<HashMap<u32, String>>>);

impl Ends {
    pub(super) fn see(&self, report: &Report) {
        if let Report::Died { id, exit, .. } = report {
            let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ends.insert(id.0, exit.to_string());
        }
    }

    pub(super) fn of(&self, worker: u32) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&worker).cloned()
    }
}
