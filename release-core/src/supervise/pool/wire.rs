//! What a pool leaves to the next version of the program. The names here are the format: they stay as they
//! are, whatever the pool calls its own. A new field may be missing (`serde(default)`), and one that is not
//! known is passed over.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::supervise::intensity::Intensity;
use crate::supervise::jitter::Jitter;
use crate::supervise::life::Own;
use crate::supervise::process::{Process, Stage};
use crate::supervise::worker::Worker;
use crate::supervise::{KillReason, WorkerId};

/// All that a pool knows which is quiet: no change is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
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
    deaths: Vec<Moment>,
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

/// A moment, relative to when the snapshot is taken: a clock means nothing elsewhere.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Moment {
    Ago(Duration),
    In(Duration),
}

impl Moment {
    fn of(moment: Instant, now: Instant) -> Self {
        match moment.checked_duration_since(now) {
            Some(time) => Self::In(time),
            None => Self::Ago(now - moment),
        }
    }

    fn after(self, now: Instant) -> Instant {
        // A clock that cannot go that far has a nearer end.
        match self {
            Self::Ago(time) => now.checked_sub(time),
            Self::In(time) => now.checked_add(time),
        }
        .unwrap_or(now)
    }
}

impl Snapshot {
    pub(super) fn of(pool: &Pool, now: Instant) -> Self {
        let groups = pool.groups.iter().map(|group| GroupState {
            name: group.spec.name.clone(),
            configured: group.configured,
            size: group.spec.size,
            deaths: group.intensity.deaths.iter().map(|at| Moment::of(*at, now)).collect(),
            died_too_fast: group.intensity.exceeded,
            is_gone: group.is_gone,
        });
        Self {
            generation: pool.generation,
            latest: pool.latest,
            groups: groups.collect(),
            workers: pool.workers.iter().map(|worker| WorkerState::of(worker, now)).collect(),
            chance: pool.jitter.0,
        }
    }

    pub(super) fn jitter(&self) -> Jitter {
        Jitter::new(self.chance)
    }
}

impl GroupState {
    pub(super) fn intensity(&self, now: Instant) -> Intensity {
        Intensity {
            deaths: self.deaths.iter().map(|at| at.after(now)).collect(),
            exceeded: self.died_too_fast,
        }
    }
}

impl WorkerState {
    fn of(worker: &Worker, now: Instant) -> Self {
        let relative = |moment: Option<Instant>| moment.map(|moment| Moment::of(moment, now));
        let process = |process: &Process| ProcessState::of(process, now);
        Self {
            id: worker.id.0,
            group: worker.group,
            rank: worker.rank,
            generation: worker.generation,
            serving: worker.serving.as_ref().map(process),
            due: relative(worker.due),
            idle_since: relative(worker.idle_since),
            replacement: worker.replacement.as_ref().map(process),
            retry_at: relative(worker.retry_at),
            draining: worker.draining.iter().map(process).collect(),
            last_end: worker.last_end.clone(),
            was_ready: worker.was_ready,
            starts: worker.starts,
            early_deaths: worker.early_deaths,
            failed_starts: worker.failed_starts,
        }
    }

    pub(super) fn worker(self, now: Instant) -> Worker {
        let absolute = |moment: Option<Moment>| moment.map(|moment| moment.after(now));
        let process = |process: ProcessState| process.process(now);
        Worker {
            id: WorkerId(self.id),
            group: self.group,
            rank: self.rank,
            generation: self.generation,
            serving: self.serving.map(process),
            due: absolute(self.due),
            idle_since: absolute(self.idle_since),
            replacement: self.replacement.map(process),
            retry_at: absolute(self.retry_at),
            draining: self.draining.into_iter().map(process).collect(),
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
    fn of(process: &Process, now: Instant) -> Self {
        let relative = |moment: Option<Instant>| moment.map(|moment| Moment::of(moment, now));
        let Own { age, requests, memory, expires } = process.limits;
        Self {
            generation: process.generation,
            stage: StageState::of(&process.stage, now),
            is_proven: process.is_proven,
            is_stale: process.is_stale,
            worn_since: relative(process.worn_since),
            status_text: process.status_text.clone(),
            limits: LimitsState { age, requests, memory, expires: relative(expires) },
            since: Moment::of(process.since, now),
            ready_at: relative(process.ready_at),
        }
    }

    fn process(self, now: Instant) -> Process {
        let absolute = |moment: Option<Moment>| moment.map(|moment| moment.after(now));
        let LimitsState { age, requests, memory, expires } = self.limits;
        Process {
            generation: self.generation,
            stage: self.stage.stage(now),
            is_proven: self.is_proven,
            is_stale: self.is_stale,
            worn_since: absolute(self.worn_since),
            status_text: self.status_text,
            limits: Own { age, requests, memory, expires: absolute(expires) },
            since: self.since.after(now),
            ready_at: absolute(self.ready_at),
        }
    }
}

impl StageState {
    fn of(stage: &Stage, now: Instant) -> Self {
        let moment = |moment: &Instant| Moment::of(*moment, now);
        match stage {
            Stage::Spawning => Self::Spawning,
            Stage::Starting { pid, until } => Self::Starting { pid: *pid, until: moment(until) },
            Stage::Trial { pid, until } => Self::Trial { pid: *pid, until: moment(until) },
            Stage::Ready { pid } => Self::Ready { pid: *pid },
            Stage::Leaving { pid, until } => Self::Leaving { pid: *pid, until: moment(until) },
            Stage::Stopping { pid, kill_at } => {
                Self::Stopping { pid: *pid, kill_at: moment(kill_at) }
            }
            Stage::Killed { pid, reason } => Self::Killed { pid: *pid, reason: reason.clone() },
        }
    }

    fn stage(self, now: Instant) -> Stage {
        match self {
            Self::Spawning => Stage::Spawning,
            Self::Starting { pid, until } => Stage::Starting { pid, until: until.after(now) },
            Self::Trial { pid, until } => Stage::Trial { pid, until: until.after(now) },
            Self::Ready { pid } => Stage::Ready { pid },
            Self::Leaving { pid, until } => Stage::Leaving { pid, until: until.after(now) },
            Self::Stopping { pid, kill_at } => Stage::Stopping { pid, kill_at: kill_at.after(now) },
            Self::Killed { pid, reason } => Stage::Killed { pid, reason },
        }
    }
}
