//! How processes of workers have ended: each worker's latest for `status`, all together for `stop`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use release_core::MasterHandle;
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
    /// How many were killed since the service was told to stop.
    killed_at_stop: Option<usize>,
    /// Callers that wait for the end of all workers.
    waiting: Vec<Waker>,
}

impl Known {
    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

impl Ends {
    pub(super) fn see(&self, report: &Report) {
        self.note(report);
        let waiting = mem::take(&mut self.known().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn note(&self, report: &Report) {
        match report {
            Report::Stopping { .. } => {
                self.known().killed_at_stop.get_or_insert(0);
            }
            Report::Killed { pid, reason, .. } => {
                let mut known = self.known();
                known.killed.insert(*pid, reason.clone());
                known.killed_at_stop.iter_mut().for_each(|killed| *killed += 1);
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

    /// Waits until a service that was told to stop has no process left; returns how many were killed.
    pub(super) async fn all(&self, master: &MasterHandle) -> usize {
        poll_fn(|cx| {
            // First, or the last report might come in between.
            self.known().wait(cx.waker());
            let mut workers = master.status().into_iter();
            let is_over = workers.all(|worker| worker.pid.is_none() && worker.draining == 0);
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.known().killed_at_stop.unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
