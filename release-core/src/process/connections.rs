//! Connections of the running workers, for requests and broadcasts of the master.

use std::borrow::Borrow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::worker_info::WorkerInfo;
use crate::ipc::{Codec, OneOf, Peer, Postcard, Request};

/// The running processes of a group's workers, each with its connection; see
/// [`Workers::connections`](crate::Workers::connections).
///
/// A worker that is being replaced has two or more processes: see [`WorkerInfo::generation`].
/// Clones share the list, which is always current.
///
/// # Examples
///
/// Keeps the connections of a group for later use by the master:
///
/// ```
/// use release_core::ipc::Never;
/// use release_core::{Connections, Workers};
///
/// let workers = Workers::same_executable("http", 4).user("nobody").requests::<String>();
/// let connections: Connections<String> = workers.connections();
/// assert!(connections.list().is_empty(), "no worker runs before the master does");
/// ```
pub struct Connections<W, C = Postcard> {
    members: Arc<Mutex<Members<W, C>>>,
}

/// A broadcast reads the list while others change it, and copies none of it.
type Members<W, C> = Arc<Vec<(WorkerInfo, Peer<W, C>)>>;

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
    /// Returns the processes and their connections at this moment.
    ///
    /// # Examples
    ///
    /// Asks each worker in turn:
    ///
    /// ```
    /// use release_core::Connections;
    /// use release_core::ipc::CallError;
    ///
    /// async fn ask(connections: &Connections<String>) -> Result<(), CallError> {
    ///     for (worker, peer) in connections.list() {
    ///         let answer = peer.call(&"status".to_owned()).await?;
    ///         println!("worker {}: {answer}", worker.id);
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = ask;
    /// ```
    #[must_use]
    pub fn list(&self) -> Vec<(WorkerInfo, Peer<W, C>)> {
        self.lock().to_vec()
    }

    /// Sends a message without an answer to every process. Returns the number of processes that it
    /// was queued for.
    ///
    /// Never waits: a worker that does not read, and has too many messages queued, is skipped with
    /// a warning in the log.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Connections;
    ///
    /// fn announce(connections: &Connections<String>) {
    ///     let count = connections.broadcast(&"the price list has changed".to_owned());
    ///     println!("{count} processes were told");
    /// }
    /// # announce(&Connections::default());
    /// ```
    pub fn broadcast(&self, message: impl OneOf<W>) -> usize {
        let message = message.into_all();
        let message: &W = message.borrow();
        let mut encoded = None;
        let members = Arc::clone(&self.lock());
        let sent = members.iter().filter(|(worker, peer)| {
            let sent = match encoded.get_or_insert_with(|| peer.encoded(message)) {
                Some(encoded) => peer.notify_encoded(encoded),
                None => peer.notify(message),
            };
            if let Err(error) = &sent {
                let reason = crate::error::chain(error);
                log_warning!(worker = worker.id, pid = worker.pid, reason, "not told a broadcast");
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

impl<W, C: Clone> Connections<W, C> {
    pub(crate) fn add(&self, worker: WorkerInfo, peer: Peer<W, C>) {
        Arc::make_mut(&mut self.lock()).push((worker, peer));
    }

    pub(crate) fn remove(&self, worker: &WorkerInfo) {
        let mut members = self.lock();
        // Removes only one: the pid of a process that has ended may already belong to a new one.
        if let Some(index) = members.iter().position(|(member, _)| member == worker) {
            Arc::make_mut(&mut members).remove(index);
        }
    }
}

impl<W, C> Connections<W, C> {
    fn lock(&self) -> MutexGuard<'_, Members<W, C>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
