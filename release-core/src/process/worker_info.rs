//! What a master knows of a worker's process.

use std::fmt;
use std::sync::Arc;

use crate::rt::Rt;

/// One of the running workers, as its master knows it.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its identity, kept over restarts; unique in the whole master.
    pub id: u32,
    /// Its process.
    pub pid: i32,
    /// The name of its group.
    pub group: Arc<str>,
    /// The generation of this process.
    pub generation: u32,
    pub(crate) rt: Rt,
}

impl WorkerInfo {
    /// The runtime that the master runs on: for tasks, timers, and what blocks
    /// ([`Rt::unblock`]).
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
