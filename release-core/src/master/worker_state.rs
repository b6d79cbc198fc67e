//! `WorkerState`: a worker, as the master shows it.

use std::time::Duration;

use crate::supervise::State;

/// The state of one worker; see [`MasterHandle::status`](crate::MasterHandle::status).
///
/// # Examples
///
/// ```
/// use release_core::MasterHandle;
///
/// fn processes(master: &MasterHandle) -> Vec<i32> {
///     master.status().into_iter().filter_map(|worker| worker.pid).collect()
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerState {
    /// Worker id, unique in the master and stable across restarts.
    pub id: u32,
    /// Name of its group.
    pub group: String,
    /// Process id, if the worker has a process.
    pub pid: Option<i32>,
    /// Generation of this process, or of the next one.
    pub generation: u32,
    /// Stage between start and end.
    pub state: State,
    /// Number of restarts.
    pub restarts: u32,
    /// Run time of its process; without a process, the time in its current state.
    pub uptime: Duration,
    /// Number of older processes of this worker that are still draining.
    pub draining: usize,
    /// Status text of the process: the latest `STATUS=` that it sent to its `NOTIFY_SOCKET`, for
    /// workers of [`Workers::command`](crate::Workers::command) with
    /// [`Readiness::Notify`](crate::Readiness::Notify).
    pub status_text: Option<String>,
    /// Restrictions of the process by the [`Sandbox`](crate::Sandbox) of its group, as the kernel showed
    /// them when it began: the parts in force, the capabilities that are left, and the parts that are
    /// not in force.
    pub sandbox: Option<String>,
}
