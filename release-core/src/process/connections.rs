//! The running workers' connections, for the master to ask and to broadcast.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::worker_info::WorkerInfo;
use crate::ipc::{Codec, Peer, Postcard, Request};

/// The processes of a group's workers that run now, each with its connection.
///
/// A worker that is being replaced has two or more: see [`WorkerInfo::generation`]. A clone shows the
/// same, always current list.
pub struct Connections<W, C = Postcard> {
    members: Arc<Mutex<Members<W, C>>>,
}

type Members<W, C> = Vec<(WorkerInfo, Peer<W, C>)>;

impl<W, C> Clone for Connections<W, C> {
    fn clone(&self) -> Self {
        Self { members: Arc::clone(&self.members) }
    }
}

impl<W, C> Default for Connections<W, C> {
    fn default() -> Self {
        Self { members: Arc::default() }
    }
}

impl<W, C> fmt::Debug for Connections<W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|(worker, _)| worker)).finish()
    }
}

impl<W: Request, C: Codec<W> + Codec<W::Response>> Connections<W, C> {
    /// The processes and their connections, at this moment.
    #[must_use]
    pub fn list(&self) -> Vec<(WorkerInfo, Peer<W, C>)> {
        self.lock().clone()
    }

    /// Sends a message that wants no answer to every process; says to how many it was given.
    ///
    /// Never waits: a worker that does not read, and has enough waiting for it already, is passed
    /// over with a warning in the log.
    pub fn broadcast(&self, message: &W) -> usize {
        let sent = self.list().into_iter().filter(|(worker, peer)| {
            let sent = peer.notify(message);
            if let Err(error) = &sent {
                let reason = crate::error::chain(error);
                tracing::warn!(
                    worker = worker.id,
                    pid = worker.pid,
                    reason,
                    "not told a broadcast"
                );
            }
            sent.is_ok()
        });
        sent.count()
    }
}

impl<W, C: Clone> Connections<W, C> {
    /// Returns the connection to a process, if it has not ended.
    pub(crate) fn peer(&self, id: u32, pid: i32) -> Option<Peer<W, C>> {
        let is_it = |worker: &WorkerInfo| (worker.id, worker.pid) == (id, pid);
        let members = self.lock();
        let (_, peer) = members.iter().find(|(worker, _)| is_it(worker))?;
        peer.ended().is_none().then(|| peer.clone())
    }
}

impl<W, C> Connections<W, C> {
    pub(crate) fn add(&self, worker: WorkerInfo, peer: Peer<W, C>) {
        self.lock().push((worker, peer));
    }

    pub(crate) fn remove(&self, worker: &WorkerInfo) {
        let mut members = self.lock();
        // Only one: the number of a process that has ended may be that of a new one already.
        if let Some(index) = members.iter().position(|(member, _)| member == worker) {
            members.remove(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Members<W, C>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
