//! The state of a pool as a value, and a pool from that value in another version of the program.

use std::time::Duration;

use super::{Goal, Pool};
use crate::kept;
use crate::supervise::group::{Intensity, PoolGroup};
use crate::supervise::jitter::Jitter;
use crate::supervise::life::ProcessLimits;
use crate::supervise::process::{PoolProcess, Stage};
use crate::supervise::turn::Turn;
use crate::supervise::worker::PoolWorker;
use crate::supervise::{Action, GroupSpec, Hung, KillReason, Moment, Report, WorkerId};
use crate::{Error, ErrorKind};

fn written(moment: Moment) -> Duration {
    moment - Moment::START
}

fn read(time: Duration) -> Moment {
    Moment::START + time
}

impl From<&PoolGroup> for kept::Group {
    fn from(group: &PoolGroup) -> Self {
        Self {
            name: group.spec.name.clone(),
            configured: group.configured,
            size: group.spec.size,
            deaths: group.intensity.deaths.iter().copied().map(written).collect(),
            died_too_fast: group.intensity.exceeded,
            is_gone: group.is_gone,
        }
    }
}

impl From<&kept::Group> for Intensity {
    fn from(kept: &kept::Group) -> Self {
        let deaths = kept.deaths.iter().copied().map(read).collect();
        Self { deaths, exceeded: kept.died_too_fast }
    }
}

impl From<&PoolWorker> for kept::PoolWorker {
    fn from(worker: &PoolWorker) -> Self {
        Self {
            id: worker.id.0,
            group: worker.group,
            rank: worker.rank,
            generation: worker.generation,
            serving: worker.serving.as_ref().map(Into::into),
            due: worker.due.map(written),
            idle_since: worker.idle_since.map(written),
            replacement: worker.replacement.as_ref().map(Into::into),
            retry_at: worker.retry_at.map(written),
            draining: worker.draining.iter().map(Into::into).collect(),
            last_end: worker.last_end.clone(),
            was_ready: worker.was_ready,
            starts: worker.starts,
            early_deaths: worker.early_deaths,
            failed_starts: worker.failed_starts,
        }
    }
}

impl From<kept::PoolWorker> for PoolWorker {
    fn from(kept: kept::PoolWorker) -> Self {
        Self {
            id: WorkerId(kept.id),
            group: kept.group,
            rank: kept.rank,
            generation: kept.generation,
            serving: kept.serving.map(Into::into),
            due: kept.due.map(read),
            idle_since: kept.idle_since.map(read),
            replacement: kept.replacement.map(Into::into),
            retry_at: kept.retry_at.map(read),
            draining: kept.draining.into_iter().map(Into::into).collect(),
            restarting: Vec::new(),
            last_end: kept.last_end,
            was_ready: kept.was_ready,
            starts: kept.starts,
            early_deaths: kept.early_deaths,
            failed_starts: kept.failed_starts,
        }
    }
}

impl From<&PoolProcess> for kept::Process {
    fn from(process: &PoolProcess) -> Self {
        let ProcessLimits { age, requests, memory, expires } = process.limits;
        Self {
            generation: process.generation,
            stage: (&process.stage).into(),
            is_proven: process.is_proven,
            needs_replacement: process.needs_replacement,
            over_limit_since: process.over_limit_since.map(written),
            status_text: process.status_text.clone(),
            limits: kept::ProcessLimits { age, requests, memory, expires: expires.map(written) },
            since: written(process.since),
            ready_at: process.ready_at.map(written),
        }
    }
}

impl From<kept::Process> for PoolProcess {
    fn from(kept: kept::Process) -> Self {
        let kept::ProcessLimits { age, requests, memory, expires } = kept.limits;
        Self {
            generation: kept.generation,
            stage: kept.stage.into(),
            is_proven: kept.is_proven,
            needs_replacement: kept.needs_replacement,
            over_limit_since: kept.over_limit_since.map(read),
            status_text: kept.status_text,
            limits: ProcessLimits { age, requests, memory, expires: expires.map(read) },
            since: read(kept.since),
            ready_at: kept.ready_at.map(read),
        }
    }
}

impl From<&Stage> for kept::Stage {
    fn from(stage: &Stage) -> Self {
        match stage {
            Stage::Spawning => Self::Spawning,
            Stage::Starting { pid, until } => Self::Starting { pid: *pid, until: written(*until) },
            Stage::Trial { pid, until } => Self::Trial { pid: *pid, until: written(*until) },
            Stage::Ready { pid } => Self::Ready { pid: *pid },
            Stage::Leaving { pid, until } => Self::Leaving { pid: *pid, until: written(*until) },
            Stage::Stopping { pid, kill_at } => {
                Self::Stopping { pid: *pid, kill_at: written(*kill_at) }
            }
            Stage::Killed { pid, reason } => Self::Killed { pid: *pid, reason: reason.into() },
        }
    }
}

impl From<kept::Stage> for Stage {
    fn from(kept: kept::Stage) -> Self {
        match kept {
            kept::Stage::Spawning => Self::Spawning,
            kept::Stage::Starting { pid, until } => Self::Starting { pid, until: read(until) },
            kept::Stage::Trial { pid, until } => Self::Trial { pid, until: read(until) },
            kept::Stage::Ready { pid } => Self::Ready { pid },
            kept::Stage::Leaving { pid, until } => Self::Leaving { pid, until: read(until) },
            kept::Stage::Stopping { pid, kill_at } => {
                Self::Stopping { pid, kill_at: read(kill_at) }
            }
            kept::Stage::Killed { pid, reason } => Self::Killed { pid, reason: reason.into() },
        }
    }
}

impl From<&KillReason> for kept::KillReason {
    fn from(reason: &KillReason) -> Self {
        match reason {
            KillReason::NotReady(time) => Self::NotReady(*time),
            KillReason::Violation(how) => Self::Violation(how.clone()),
            KillReason::Hung(Hung::Silent(time)) => Self::Hung(kept::Hung::Silent(*time)),
            KillReason::Hung(Hung::Stuck(age)) => Self::Hung(kept::Hung::Stuck(*age)),
            KillReason::Hung(Hung::Admitted) => Self::Hung(kept::Hung::Admitted),
            KillReason::Hung(Hung::Job(time)) => Self::Hung(kept::Hung::Job(*time)),
            KillReason::StopDeadline => Self::StopDeadline,
            KillReason::StopNow => Self::StopNow,
        }
    }
}

impl From<kept::KillReason> for KillReason {
    fn from(kept: kept::KillReason) -> Self {
        match kept {
            kept::KillReason::NotReady(time) => Self::NotReady(time),
            kept::KillReason::Violation(how) => Self::Violation(how),
            kept::KillReason::Hung(kept::Hung::Silent(time)) => Self::Hung(Hung::Silent(time)),
            kept::KillReason::Hung(kept::Hung::Stuck(age)) => Self::Hung(Hung::Stuck(age)),
            kept::KillReason::Hung(kept::Hung::Admitted) => Self::Hung(Hung::Admitted),
            kept::KillReason::Hung(kept::Hung::Job(time)) => Self::Hung(Hung::Job(time)),
            kept::KillReason::StopDeadline => Self::StopDeadline,
            kept::KillReason::StopNow => Self::StopNow,
        }
    }
}

impl Pool {
    /// Returns the state for another version, see [`Pool::inherit`].
    pub(crate) fn snapshot(&self, now: Moment) -> kept::Pool {
        kept::Pool {
            time: written(now),
            generation: self.generation,
            latest: self.latest,
            groups: self.groups.iter().map(Into::into).collect(),
            workers: self.workers.iter().map(Into::into).collect(),
            chance: self.jitter.0,
        }
    }

    /// Restores a running pool from a snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if the snapshot is invalid.
    #[cfg(test)]
    pub(crate) fn restore(
        groups: Vec<GroupSpec>,
        snapshot: &kept::Pool,
        stop_deadline: Duration,
    ) -> Result<Self, Error> {
        Self::adopt(groups, snapshot, stop_deadline).map(|(pool, _)| pool)
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
        snapshot: &kept::Pool,
        stop_deadline: Duration,
        returned: Option<String>,
    ) -> Result<(Self, Vec<Action>), Error> {
        let configured: Vec<_> = groups.iter().map(|group| group.size).collect();
        let (mut pool, sizes) = Self::adopt(groups, snapshot, stop_deadline)?;
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
    fn adopt(
        groups: Vec<GroupSpec>,
        snapshot: &kept::Pool,
        stop_deadline: Duration,
    ) -> Result<(Self, Vec<u32>), Error> {
        let strange =
            || Error::new(ErrorKind::Change, "the state of the running workers makes no sense");
        let mut pool = Self::new(Vec::new(), stop_deadline, 0);
        pool.groups = groups.into_iter().map(PoolGroup::new).collect();
        let mut sizes: Vec<_> = pool.groups.iter().map(|group| group.spec.size).collect();
        // A group with a new name has no worker yet.
        pool.groups.iter_mut().for_each(|group| group.spec.size = 0);
        let mut places = Vec::new();
        for saved in &snapshot.groups {
            let known = pool.groups.iter().position(|group| group.spec.name == saved.name);
            let index = known.unwrap_or_else(|| {
                pool.groups.push(PoolGroup::gone(saved.name.clone()));
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
            (group.spec.size, group.intensity) = (saved.size, saved.into());
            group.configured = saved.configured;
            places.push(index);
        }
        for (index, saved) in snapshot.workers.iter().enumerate() {
            let mut worker = PoolWorker::from(saved.clone());
            let is_in_order = usize::try_from(worker.id.0) == Ok(index);
            let place = places.get(worker.group).filter(|_| is_in_order);
            worker.group = *place.ok_or_else(strange)?;
            pool.workers.push(worker);
        }
        (pool.generation, pool.latest, pool.jitter) =
            (snapshot.generation, snapshot.latest, Jitter::new(snapshot.chance));
        pool.time = read(snapshot.time);
        (pool.mode, pool.all_ready) = (Goal::Running, true);
        Ok((pool, sizes))
    }
}
