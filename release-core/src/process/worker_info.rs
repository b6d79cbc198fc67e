//! A worker's process, as others see it.

use std::fmt;
use std::sync::Arc;

use crate::rt::Rt;

/// A running process of a worker, as seen by its master, or by a worker that it calls.
///
/// The master passes it to handlers, contexts and hooks.
///
/// # Examples
///
/// ```
/// use release_core::Workers;
///
/// let workers = Workers::same_executable("clock", 2).user("nobody").answer(
///     |worker, question: String| async move {
///         Ok(format!("{question}, worker {} of {} (pid {})", worker.id, worker.group, worker.pid))
///     },
/// );
/// # let _ = workers;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Worker id, unique in the master and stable across restarts.
    pub id: u32,
    /// Process id.
    pub pid: i32,
    /// Name of the group.
    pub group: Arc<str>,
    /// Generation of this process; see [`Me::generation`](crate::Me::generation).
    pub generation: u32,
    pub(crate) rt: Rt,
}

impl WorkerInfo {
    /// Returns the runtime of this process, for tasks, timers, and blocking functions
    /// ([`Rt::unblock`]): the master's, or in [`Me::answer_channels`](crate::Me::answer_channels) that of
    /// the worker that is called.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("login", 2).user("nobody").answer(
    ///     |worker, password: String| async move {
    ///         // Slows down guessing.
    ///         worker.rt().sleep(Duration::from_secs(1)).await;
    ///         Ok((password == "xyzzy").to_string())
    ///     },
    /// );
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }
}

impl PartialEq for WorkerInfo {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.id, it.pid, it.generation);
        of(self) == of(other) && self.group == other.group
    }
}

impl Eq for WorkerInfo {}

impl fmt::Debug for WorkerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, pid, group, generation, .. } = self;
        let mut all = f.debug_struct("WorkerInfo");
        all.field("id", id).field("pid", pid).field("group", group);
        all.field("generation", generation).finish_non_exhaustive()
    }
}
