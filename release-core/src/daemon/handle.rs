//! `MasterHandle`: the running master, for its own tasks and its control socket.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rt::Rt;
use crate::supervise::{Pool, State, WorkerId};

/// The running master. Cheap to clone.
#[derive(Clone)]
pub struct MasterHandle {
    rt: Rt,
    pool: Arc<Mutex<Pool>>,
    stop: Arc<dyn Fn() + Send + Sync>,
}

/// What one worker does at the moment; see [`MasterHandle::status`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerState {
    /// Its identity.
    pub id: u32,
    /// The name of its group.
    pub group: String,
    /// Its process, if it has one.
    pub pid: Option<i32>,
    /// Where it is between start and end.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// How long its process has run; without one, how long it has been in its state.
    pub uptime: Duration,
}

impl fmt::Debug for MasterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterHandle").finish_non_exhaustive()
    }
}

impl MasterHandle {
    pub(crate) fn new(rt: &Rt, pool: Pool, stop: impl Fn() + Send + Sync + 'static) -> Self {
        Self { rt: rt.clone(), pool: Arc::new(Mutex::new(pool)), stop: Arc::new(stop) }
    }

    /// The runtime that the master runs on.
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// All workers, in the order of their identities.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerState> {
        let pool = self.pool();
        let status = pool.status(self.rt.now());
        status
            .into_iter()
            .map(|worker| WorkerState {
                id: worker.id.0,
                group: worker.group.to_owned(),
                pid: worker.pid,
                state: worker.state,
                restarts: worker.restarts,
                uptime: worker.since,
            })
            .collect()
    }

    /// Stops in order, as SIGTERM does.
    pub fn stop(&self) {
        (self.stop)();
    }

    pub(crate) fn is_stopping(&self, id: WorkerId) -> bool {
        let pool = self.pool();
        let workers = pool.status(self.rt.now());
        workers.iter().any(|worker| worker.id == id && worker.state == State::Stopping)
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
