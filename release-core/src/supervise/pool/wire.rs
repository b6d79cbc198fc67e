//! What a pool leaves to the next version of the program. The names here are the format: they stay as they
//! are, whatever the pool calls its own. A new field may be missing (`serde(default)`), and one that is not
//! known is passed over.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::supervise::intensity::Intensity;
use crate::supervise::life::Own;
use crate::supervise::process::{Process, Stage};
use crate::supervise::turn::Jitter;
use crate::supervise::worker::Worker;
use crate::supervise::{KillReason, Moment, WorkerId};

/// All that a pool knows which is quiet: no change is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// What time it is for the pool, which goes on from there.
    pub(super) time: Moment,
    pub(super) generation: u32,
    pub(super) latest: u32,
    pub(super) groups: Vec<GroupState>,
    pub(super) workers: Vec<WorkerState>,
    /// Where the generator of chance stands.
    chance: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GroupState {
    pub(super) name: String,
    /// The size that its program asked for.
    pub(super) configured: u32,
    /// The size that it has.
    pub(super) size: u32,
    #[serde(default)]
    deaths: VecDeque<Moment>,
    #[serde(default)]
    died_too_fast: bool,
    /// Whether this version does not have it any more.
    #[serde(default)]
    pub(super) is_gone: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WorkerState {
    id: u32,
    /// The place of its group.
    group: usize,
    rank: u32,
    generation: u32,
    serving: Option<ProcessState>,
    due: Option<Moment>,
    idle_since: Option<Moment>,
    replacement: Option<ProcessState>,
    retry_at: Option<Moment>,
    draining: Vec<ProcessState>,
    last_end: Option<Result<(), String>>,
    was_ready: bool,
    starts: u32,
    #[serde(default)]
    early_deaths: u32,
    #[serde(default)]
    failed_starts: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ProcessState {
    generation: u32,
    stage: StageState,
    is_proven: bool,
    is_stale: bool,
    worn_since: Option<Moment>,
    status_text: Option<String>,
    #[serde(default)]
    limits: LimitsState,
    since: Moment,
    ready_at: Option<Moment>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum StageState {
    Spawning,
    Starting { pid: i32, until: Moment },
    Trial { pid: i32, until: Moment },
    Ready { pid: i32 },
    Leaving { pid: i32, until: Moment },
    Stopping { pid: i32, kill_at: Moment },
    Killed { pid: i32, reason: KillReason },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct LimitsState {
    age: Option<Duration>,
    requests: Option<u64>,
    memory: Option<u64>,
    expires: Option<Moment>,
}

impl Snapshot {
    pub(super) fn of(pool: &Pool, time: Moment) -> Self {
        let groups = pool.groups.iter().map(|group| GroupState {
            name: group.spec.name.clone(),
            configured: group.configured,
            size: group.spec.size,
            deaths: group.intensity.deaths.clone(),
            died_too_fast: group.intensity.exceeded,
            is_gone: group.is_gone,
        });
        Self {
            time,
            generation: pool.generation,
            latest: pool.latest,
            groups: groups.collect(),
            workers: pool.workers.iter().map(WorkerState::of).collect(),
            chance: pool.jitter.0,
        }
    }

    pub(super) fn jitter(&self) -> Jitter {
        Jitter::new(self.chance)
    }
}

impl GroupState {
    pub(super) fn intensity(&self) -> Intensity {
        Intensity { deaths: self.deaths.clone(), exceeded: self.died_too_fast }
    }
}

impl WorkerState {
    fn of(worker: &Worker) -> Self {
        Self {
            id: worker.id.0,
            group: worker.group,
            rank: worker.rank,
            generation: worker.generation,
            serving: worker.serving.as_ref().map(ProcessState::of),
            due: worker.due,
            idle_since: worker.idle_since,
            replacement: worker.replacement.as_ref().map(ProcessState::of),
            retry_at: worker.retry_at,
            draining: worker.draining.iter().map(ProcessState::of).collect(),
            last_end: worker.last_end.clone(),
            was_ready: worker.was_ready,
            starts: worker.starts,
            early_deaths: worker.early_deaths,
            failed_starts: worker.failed_starts,
        }
    }

    pub(super) fn worker(self) -> Worker {
        Worker {
            id: WorkerId(self.id),
            group: self.group,
            rank: self.rank,
            generation: self.generation,
            serving: self.serving.map(ProcessState::process),
            due: self.due,
            idle_since: self.idle_since,
            replacement: self.replacement.map(ProcessState::process),
            retry_at: self.retry_at,
            draining: self.draining.into_iter().map(ProcessState::process).collect(),
            restarting: Vec::new(),
            last_end: self.last_end,
            was_ready: self.was_ready,
            starts: self.starts,
            early_deaths: self.early_deaths,
            failed_starts: self.failed_starts,
        }
    }
}

impl ProcessState {
    fn of(process: &Process) -> Self {
        let Own { age, requests, memory, expires } = process.limits;
        Self {
            generation: process.generation,
            stage: StageState::of(&process.stage),
            is_proven: process.is_proven,
            is_stale: process.is_stale,
            worn_since: process.worn_since,
            status_text: process.status_text.clone(),
            limits: LimitsState { age, requests, memory, expires },
            since: process.since,
            ready_at: process.ready_at,
        }
    }

    fn process(self) -> Process {
        let LimitsState { age, requests, memory, expires } = self.limits;
        Process {
            generation: self.generation,
            stage: self.stage.stage(),
            is_proven: self.is_proven,
            is_stale: self.is_stale,
            worn_since: self.worn_since,
            status_text: self.status_text,
            limits: Own { age, requests, memory, expires },
            since: self.since,
            ready_at: self.ready_at,
        }
    }
}

impl StageState {
    fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Spawning => Self::Spawning,
            Stage::Starting { pid, until } => Self::Starting { pid: *pid, until: *until },
            Stage::Trial { pid, until } => Self::Trial { pid: *pid, until: *until },
            Stage::Ready { pid } => Self::Ready { pid: *pid },
            Stage::Leaving { pid, until } => Self::Leaving { pid: *pid, until: *until },
            Stage::Stopping { pid, kill_at } => Self::Stopping { pid: *pid, kill_at: *kill_at },
            Stage::Killed { pid, reason } => Self::Killed { pid: *pid, reason: reason.clone() },
        }
    }

    fn stage(self) -> Stage {
        match self {
            Self::Spawning => Stage::Spawning,
            Self::Starting { pid, until } => Stage::Starting { pid, until },
            Self::Trial { pid, until } => Stage::Trial { pid, until },
            Self::Ready { pid } => Stage::Ready { pid },
            Self::Leaving { pid, until } => Stage::Leaving { pid, until },
            Self::Stopping { pid, kill_at } => Stage::Stopping { pid, kill_at },
            Self::Killed { pid, reason } => Stage::Killed { pid, reason },
        }
    }
}
