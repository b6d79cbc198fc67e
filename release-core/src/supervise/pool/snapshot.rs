//! The state of a pool as a value, and a pool from that value in another version of the program.
//!
//! The serialized names are the format and do not change when the pool renames its fields. A new
//! field may be missing (`serde(default)`), and an unknown field is ignored.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Mode, Pool};
use crate::supervise::group::{Group, Intensity};
use crate::supervise::jitter::Jitter;
use crate::supervise::life::ProcessLimits;
use crate::supervise::process::{Process, Stage};
use crate::supervise::turn::Turn;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, GroupSpec, KillReason, Moment, Report, WorkerId};
use crate::{Error, ErrorKind};

/// State of a pool without an operation in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Time of the pool, which continues from there.
    time: Moment,
    generation: u32,
    latest: u32,
    groups: Vec<GroupState>,
    workers: Vec<WorkerState>,
    /// State of the generator of jitter.
    chance: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GroupState {
    name: String,
    /// Size in the configuration.
    configured: u32,
    /// Present size.
    size: u32,
    #[serde(default)]
    deaths: VecDeque<Moment>,
    #[serde(default)]
    died_too_fast: bool,
    /// Whether this version no longer has the group.
    #[serde(default)]
    is_gone: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WorkerState {
    id: u32,
    /// Index of its group.
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
    #[serde(rename = "is_stale")]
    needs_replacement: bool,
    #[serde(rename = "worn_since")]
    over_limit_since: Option<Moment>,
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
    fn of(pool: &Pool, time: Moment) -> Self {
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

    fn jitter(&self) -> Jitter {
        Jitter::new(self.chance)
    }
}

impl GroupState {
    fn intensity(&self) -> Intensity {
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

    fn worker(self) -> Worker {
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
        let ProcessLimits { age, requests, memory, expires } = process.limits;
        Self {
            generation: process.generation,
            stage: StageState::of(&process.stage),
            is_proven: process.is_proven,
            needs_replacement: process.needs_replacement,
            over_limit_since: process.over_limit_since,
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
            needs_replacement: self.needs_replacement,
            over_limit_since: self.over_limit_since,
            status_text: self.status_text,
            limits: ProcessLimits { age, requests, memory, expires },
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

impl Pool {
    /// Returns the state for another version, see [`Pool::inherit`].
    pub(crate) fn snapshot(&self, now: Moment) -> Snapshot {
        Snapshot::of(self, now)
    }

    /// Restores a running pool from a snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if the snapshot is invalid.
    #[cfg(test)]
    pub(crate) fn restore(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
    ) -> Result<Self, Error> {
        Self::read(groups, snapshot, stop_deadline).map(|(pool, _)| pool)
    }

    /// Restores a pool in the new version, and starts the new generation. If the new version
    /// `returned` for this reason, restores the pool in the previous version. Also returns the
    /// resulting actions.
    ///
    /// Groups are identified by their names. A group that is not among `groups` any more stops and
    /// comes after them. A group whose configured size has changed gets that size.
    ///
    /// # Errors
    ///
    /// Returns an error if the snapshot is invalid.
    pub(crate) fn inherit(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
        returned: Option<String>,
    ) -> Result<(Self, Vec<Action>), Error> {
        let configured: Vec<_> = groups.iter().map(|group| group.size).collect();
        let (mut pool, sizes) = Self::read(groups, snapshot, stop_deadline)?;
        let mut actions = Vec::new();
        if let Some(reason) = returned {
            pool.upgrade.outcome = Some(Err(reason.clone()));
            actions.push(Action::Report(Report::UpgradeRefused { reason }));
            return Ok((pool, actions));
        }
        for (group, size) in pool.groups.iter_mut().zip(configured) {
            group.configured = size;
        }
        let turn = &mut Turn::new(pool.time, pool.jitter, &mut actions);
        pool.begin_upgraded_rollout(turn);
        for (group, size) in sizes.into_iter().enumerate() {
            pool.set_size(group, size, turn);
        }
        Ok((pool, actions))
    }

    /// Returns the pool and the desired size of each group.
    fn read(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
    ) -> Result<(Self, Vec<u32>), Error> {
        let strange =
            || Error::new(ErrorKind::Change, "the state of the running workers makes no sense");
        let mut pool = Self::new(Vec::new(), stop_deadline, 0);
        pool.groups = groups.into_iter().map(Group::new).collect();
        let mut sizes: Vec<_> = pool.groups.iter().map(|group| group.spec.size).collect();
        // A group with a new name has no worker yet.
        pool.groups.iter_mut().for_each(|group| group.spec.size = 0);
        let mut places = Vec::new();
        for saved in &snapshot.groups {
            let known = pool.groups.iter().position(|group| group.spec.name == saved.name);
            let index = known.unwrap_or_else(|| {
                pool.groups.push(Group::gone(saved.name.clone()));
                sizes.push(0);
                sizes.len() - 1
            });
            let is_in_both = known.is_some() && !saved.is_gone;
            if is_in_both && saved.configured == sizes[index] {
                // The program's size is unchanged, but an operator may have resized the running
                // group.
                sizes[index] = saved.size;
            }
            let group = &mut pool.groups[index];
            (group.spec.size, group.intensity) = (saved.size, saved.intensity());
            group.configured = saved.configured;
            places.push(index);
        }
        for (index, saved) in snapshot.workers.iter().enumerate() {
            let mut worker = saved.clone().worker();
            let is_in_order = usize::try_from(worker.id.0) == Ok(index);
            let place = places.get(worker.group).filter(|_| is_in_order);
            worker.group = *place.ok_or_else(strange)?;
            pool.workers.push(worker);
        }
        (pool.generation, pool.latest, pool.jitter) =
            (snapshot.generation, snapshot.latest, snapshot.jitter());
        pool.time = snapshot.time;
        (pool.mode, pool.all_ready) = (Mode::Running, true);
        Ok((pool, sizes))
    }
}
