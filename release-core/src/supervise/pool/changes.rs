//! Operations: resize, restart, reload and upgrade. A reload starts a new generation worker by
//! worker and is rolled back if it fails. An upgrade lets another version of the program take over.

use super::Pool;
use super::underway::{Rollout, RolloutStage, UpgradeStage};
use crate::supervise::group::Resize;
use crate::supervise::process::{PoolProcess, Stage};
use crate::supervise::turn::Turn;
use crate::supervise::worker::PoolWorker;
use crate::supervise::{Action, Operation, Report, RequestId, WorkerId};

/// Maximum number of workers in a group. A larger size is most likely a mistake.
const MOST: u32 = 10_000;

fn check_size(size: u32) -> Result<(), String> {
    if size > MOST { Err(format!("more than {MOST} workers are too many")) } else { Ok(()) }
}

impl Pool {
    pub(super) fn change(&mut self, request: RequestId, change: Operation, turn: &mut Turn<'_>) {
        match change {
            Operation::Reload => self.reloads.push(request),
            Operation::Upgrade => self.upgrade.requests.push(request),
            Operation::Resize { group, size } => self.resize(request, &group, size, turn),
            Operation::Restart { id } => self.restart(request, id, turn),
        }
    }

    fn resize(&mut self, request: RequestId, name: &str, size: u32, turn: &mut Turn<'_>) {
        let there = self.groups.iter().filter(|group| !group.is_gone);
        let names: Vec<_> = there.map(|group| &group.spec.name).collect();
        // Groups that are gone come after all others.
        let Some(index) = names.iter().position(|there| *there == name) else {
            return turn.refuse([request], &format!("no group `{name}`; there is: {names:?}"));
        };
        if let Err(why) = check_size(size) {
            return turn.refuse([request], &why);
        }
        self.begin_resize(index, size, Some(request), turn);
    }

    /// Applies the size in a new configuration. Of an operator's size and a configured one, the
    /// later holds. A configuration with an unchanged size has no effect.
    fn configure(&mut self, index: usize, size: u32, turn: &mut Turn<'_>) {
        let Some(group) = self.groups.get_mut(index).filter(|group| !group.is_gone) else { return };
        if group.configured != size {
            self.begin_resize(index, size, None, turn);
            self.groups[index].configured = size;
        } else if let Some(resize) = group.resize.as_mut()
            && group.spec.size == size
        {
            resize.is_of_reload = true;
        }
    }

    /// Starts a resize for a request, or for the reload.
    fn begin_resize(
        &mut self,
        index: usize,
        size: u32,
        request: Option<RequestId>,
        turn: &mut Turn<'_>,
    ) {
        let group = &self.groups[index];
        let (mut before, mut configured) = (group.spec.size, group.configured);
        let mut least = before.min(size);
        let later = "another change of the size came after it";
        if let Some(earlier) = self.fail_resize(index, later, turn) {
            (before, configured) = (earlier.before, earlier.configured);
            least = least.min(earlier.least);
        }
        let (is_of_reload, requests) = (request.is_none(), request.into_iter().collect());
        let resize = Resize { requests, is_of_reload, before, configured, least };
        self.groups[index].resize = Some(resize);
        self.set_size(index, size, turn);
    }

    /// Fails a resize and answers its requests. A reload that waits for it ends.
    fn fail_resize(&mut self, index: usize, why: &str, turn: &mut Turn<'_>) -> Option<Resize> {
        let mut resize = self.groups[index].resize.take()?;
        turn.refuse(resize.requests.drain(..), why);
        if resize.is_of_reload {
            self.end_sizing(why, turn);
        }
        Some(resize)
    }

    pub(super) fn set_size(&mut self, group: usize, size: u32, turn: &mut Turn<'_>) {
        let spec = &mut self.groups[group].spec;
        let before = std::mem::replace(&mut spec.size, size);
        if before != size {
            let group = spec.name.clone();
            turn.report(Report::Resized { group, size });
        }
        self.add_workers(group);
        let generation = self.target().unwrap_or(self.generation);
        let own = self.workers.iter_mut().filter(|worker| worker.group == group);
        for worker in own.filter(|worker| worker.rank >= before) {
            worker.generation = generation;
            worker.last_end = None;
        }
    }

    /// Adds the workers that a group has never had.
    pub(super) fn add_workers(&mut self, group: usize) {
        let size = self.groups[group].spec.size;
        let there = self.workers.iter().filter(|worker| worker.group == group).count();
        for rank in (0..size).skip(there) {
            let id = WorkerId(u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
            self.workers.push(PoolWorker::new(id, group, rank, self.generation));
        }
    }

    fn restart(&mut self, request: RequestId, id: WorkerId, turn: &mut Turn<'_>) {
        let index = self.index(id).filter(|index| self.wants(&self.workers[*index]));
        let Some(index) = index else {
            return turn.refuse([request], &format!("there is no worker {id}"));
        };
        self.workers[index].restart(request, turn.now);
    }

    /// Fails the operations on a worker whose process ended by itself or could not be started.
    pub(super) fn note_failed_change(
        &mut self,
        index: usize,
        process: &PoolProcess,
        reason: &str,
        turn: &mut Turn<'_>,
    ) {
        let worker = &mut self.workers[index];
        if process.generation != worker.generation {
            return;
        }
        if !process.needs_replacement {
            turn.refuse(worker.give_up_restart(), reason);
        }
        let (index, rank) = (worker.group, worker.rank);
        let group = &mut self.groups[index];
        if process.was_ready() || worker.is_ready() || !group.wants(rank) {
            return;
        }
        let Some(&Resize { before, configured, least, .. }) = group.resize.as_ref() else { return };
        if rank >= least {
            group.configured = configured;
            self.fail_resize(index, reason, turn);
            self.set_size(index, before, turn);
        } else {
            // The worker is older than the resize and would fail with any size.
            let size = group.spec.size;
            let reason = format!("the group has its new size, {size}, but {reason}");
            self.fail_resize(index, &reason, turn);
        }
    }

    /// Answers the requests of completed operations.
    pub(super) fn conclude_changes(&mut self, turn: &mut Turn<'_>) {
        let mut done = Vec::new();
        for index in self.workers.awake() {
            let worker = &mut self.workers[index];
            if !self.groups[worker.group].wants(worker.rank) {
                turn.refuse(worker.restarting.drain(..), "the worker was scaled away");
            } else if worker.is_settled(false) || worker.is_finished() {
                done.append(&mut worker.restarting);
            }
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            let size = group.spec.size;
            let mut workers = self.workers.iter().filter(|worker| worker.group == index);
            let is_made = |_: &mut Resize| {
                workers.all(|worker| match worker.rank {
                    rank if rank >= size => worker.is_removed(),
                    _ => worker.is_ready() || worker.is_finished(),
                })
            };
            done.extend(group.resize.take_if(is_made).into_iter().flat_map(|it| it.requests));
        }
        done.into_iter().for_each(|request| turn.answer(request, Ok(())));
    }

    /// Fails all operations because the pool stops.
    pub(super) fn refuse_changes(&mut self, turn: &mut Turn<'_>) {
        let why = "the pool stops";
        self.refuse_reloads(why, turn);
        self.refuse_upgrades(why, turn);
        let restarting = self.workers.iter_mut().flat_map(|worker| worker.restarting.drain(..));
        let resizing = self.groups.iter_mut().filter_map(|group| group.resize.take());
        turn.refuse(restarting.chain(resizing.flat_map(|resize| resize.requests)), why);
    }

    /// Returns the generation that is being started.
    pub(super) fn target(&self) -> Option<u32> {
        match self.rollout.as_ref()?.stage {
            RolloutStage::Rolling { generation } => Some(generation),
            RolloutStage::Preparing
            | RolloutStage::Sizing { .. }
            | RolloutStage::Undoing { .. } => None,
        }
    }

    /// Returns whether a reload is replacing workers.
    pub(crate) fn is_rolling(&self) -> bool {
        let stage = self.rollout.as_ref().map(|rollout| &rollout.stage);
        matches!(stage, Some(RolloutStage::Rolling { .. } | RolloutStage::Undoing { .. }))
    }

    /// Starts the requested reload if the initial start has ended and no other reload or upgrade is
    /// in progress.
    pub(super) fn begin_rollout(&mut self, turn: &mut Turn<'_>) {
        let is_free = self.rollout.is_none() && !self.is_upgrading();
        if self.all_ready && is_free && !self.reloads.is_empty() {
            let requests = std::mem::take(&mut self.reloads);
            let (sizes, stage) = (Vec::new(), RolloutStage::Preparing);
            self.rollout = Some(Rollout { requests, is_upgrade: false, sizes, stage });
            turn.act(Action::Prepare);
        }
    }

    /// Starts the generation of a new version, which has its configuration already.
    pub(super) fn begin_upgraded_rollout(&mut self, turn: &mut Turn<'_>) {
        let generation = self.next_generation();
        self.latest = generation;
        let stage = RolloutStage::Rolling { generation };
        let (requests, sizes) = (Vec::new(), Vec::new());
        self.rollout = Some(Rollout { requests, is_upgrade: true, sizes, stage });
        turn.report(Report::Reloading { generation });
    }

    /// Starts the new generation with the sizes in its configuration.
    pub(super) fn prepared(
        &mut self,
        outcome: Result<Vec<Option<u32>>, String>,
        turn: &mut Turn<'_>,
    ) {
        let generation = self.next_generation();
        let Some(rollout @ Rollout { stage: RolloutStage::Preparing, .. }) = &mut self.rollout
        else {
            return;
        };
        let checked = outcome.and_then(|sizes| {
            sizes.iter().flatten().try_for_each(|size| check_size(*size)).map(|()| sizes)
        });
        match checked {
            Ok(sizes) => {
                (rollout.sizes, rollout.stage) = (sizes, RolloutStage::Rolling { generation });
                self.latest = generation;
                turn.report(Report::Reloading { generation });
            }
            Err(reason) => {
                turn.report(Report::ReloadRefused { reason: reason.clone() });
                self.end_rollout(&Err(reason), turn);
            }
        }
    }

    /// Starts processes for workers without one, and replacements.
    pub(super) fn start_what_is_missing(&mut self, turn: &mut Turn<'_>) {
        let target = self.target();
        let mut rooms = self.rooms();
        for (group, room) in rooms.iter().enumerate() {
            self.workers.wake_outdated(group, room.turns);
        }
        let is_rolling = self.is_rolling();
        let groups = 0..self.groups.len();
        let waits: Vec<_> = groups.map(|group| self.waits_for_others(group)).collect();
        for (group, waits) in self.groups.iter_mut().zip(&waits) {
            group.has_begun |= !waits;
        }
        for index in self.workers.awake() {
            let worker = &mut self.workers[index];
            let (group, room) = (&self.groups[worker.group], &mut rooms[worker.group]);
            if !group.wants(worker.rank) {
                continue;
            }
            if let Some(target) = target
                && worker.generation != target
                && room.turns > 0
            {
                room.turns -= 1;
                worker.last_end = None;
                worker.set_generation(target, turn.now);
            }
            if !waits[worker.group] {
                worker.fill(&group.spec.reload, turn);
            }
        }
        if self.shortage.until().is_some() {
            // Old processes serve on.
            return;
        }
        let mut due = self.workers.awake();
        due.retain(|index| {
            let worker = &self.workers[*index];
            let group = &self.groups[worker.group];
            group.wants(worker.rank) && worker.awaits_replacement(&group.spec.reload, is_rolling)
        });
        // Requested replacements come first. Among processes over a limit, the longest wait comes
        // first, so that a process that exceeds it again and again leaves room for others.
        due.sort_by_key(|index| self.workers[*index].over_limit_since());
        for index in due {
            let worker = &mut self.workers[index];
            let room = &mut rooms[worker.group];
            if room.replacements > 0 {
                room.replacements -= 1;
                worker.spawn_replacement(turn);
            }
        }
    }

    /// Returns whether the group has not been started because it comes after another one.
    pub(super) fn waits_for_others(&self, group: usize) -> bool {
        let is_ready = |worker: &PoolWorker| worker.was_ready || worker.is_finished();
        let has_started = |other: &String| {
            let is_its = |it: &&PoolWorker| self.groups[it.group].spec.name == *other;
            self.workers.iter().filter(is_its).all(|it| !self.wants(it) || is_ready(it))
        };
        let group = &self.groups[group];
        !self.all_ready && !group.has_begun && !group.spec.after.iter().all(has_started)
    }

    /// Rolls back the generation that is being started if an unproven process of it ended by itself
    /// or could not be started.
    pub(super) fn note_failed_generation(
        &mut self,
        process: &PoolProcess,
        reason: &str,
        turn: &mut Turn<'_>,
    ) {
        if process.is_proven || self.target() != Some(process.generation) {
            return;
        }
        self.undo_rollout(reason, turn);
    }

    /// Returns whether the workers of a new version are being started or rolled back.
    pub(super) fn is_rolling_upgrade(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.is_upgrade)
    }

    /// Rolls back to the previous generation, unless that is in progress.
    pub(super) fn undo_rollout(&mut self, reason: &str, turn: &mut Turn<'_>) {
        let (Some(failed), restored) = (self.target(), self.generation) else { return };
        let reason = reason.to_owned();
        if let Some(rollout) = &mut self.rollout {
            let (generation, why) = (failed, reason.clone());
            turn.report(match rollout.is_upgrade {
                true => Report::UpgradeRolledBack { generation, reason: why },
                false => Report::RolledBack { generation, reason: why },
            });
            rollout.stage = RolloutStage::Undoing { reason };
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.generation == failed) {
            worker.set_generation(restored, turn.now);
        }
    }

    /// Answers the requests of a rollback that takes longer than expected. The rollback goes on.
    pub(super) fn note_failed_restoration(&mut self, why: &str, turn: &mut Turn<'_>) {
        if let Some(Rollout { stage: RolloutStage::Undoing { reason }, .. }) = &self.rollout {
            let reason = format!("{reason}; and the workers before it cannot be restored: {why}");
            self.end_rollout(&Err(reason), turn);
        }
    }

    /// Takes the next step of a reload when every worker has completed the present one.
    pub(super) fn conclude_rollout(&mut self, turn: &mut Turn<'_>) {
        let mut wanted = self.workers.iter().filter(|worker| self.wants(worker));
        let is_upgrade = self.rollout.as_ref().is_some_and(|rollout| rollout.is_upgrade);
        match self.rollout.as_ref().map(|rollout| &rollout.stage) {
            Some(&RolloutStage::Rolling { generation }) if self.have_arrived() => {
                self.generation = generation;
                turn.report(match is_upgrade {
                    true => Report::Upgraded { generation },
                    false => Report::Reloaded { generation },
                });
                self.begin_sizing(generation, turn);
            }
            Some(&RolloutStage::Sizing { generation })
                if wanted.all(|it| self.has_arrived(it, generation)) && !self.is_sizing() =>
            {
                self.end_rollout(&Ok(()), turn);
            }
            Some(RolloutStage::Undoing { reason }) if wanted.all(|worker| worker.is_idle()) => {
                let reason = reason.clone();
                self.end_rollout(&Err(reason), turn);
            }
            Some(
                RolloutStage::Preparing
                | RolloutStage::Rolling { .. }
                | RolloutStage::Sizing { .. }
                | RolloutStage::Undoing { .. },
            )
            | None => {}
        }
    }

    /// Applies the sizes of the new generation, which serves now.
    fn begin_sizing(&mut self, generation: u32, turn: &mut Turn<'_>) {
        let Some(rollout) = &mut self.rollout else { return };
        rollout.stage = RolloutStage::Sizing { generation };
        let sizes = std::mem::take(&mut rollout.sizes);
        for (group, size) in sizes.into_iter().enumerate() {
            size.into_iter().for_each(|size| self.configure(group, size, turn));
        }
        // Groups that have these sizes already are done.
        self.conclude_changes(turn);
        self.conclude_rollout(turn);
    }

    /// Returns whether a resize of the reload is in progress.
    fn is_sizing(&self) -> bool {
        let mut resizes = self.groups.iter().filter_map(|group| group.resize.as_ref());
        resizes.any(|resize| resize.is_of_reload)
    }

    /// Answers the requests of a reload whose resize failed, or during which a worker failed.
    pub(super) fn end_sizing(&mut self, why: &str, turn: &mut Turn<'_>) {
        if let Some(Rollout { stage: RolloutStage::Sizing { .. }, .. }) = &self.rollout {
            self.end_rollout(&Err(format!("the new generation serves, but {why}")), turn);
        }
    }

    /// Returns whether a worker serves as this generation.
    fn has_arrived(&self, worker: &PoolWorker, generation: u32) -> bool {
        let is_tested = self.groups[worker.group].is_tested(generation);
        worker.generation == generation && (worker.is_settled(is_tested) || worker.is_finished())
    }

    fn end_rollout(&mut self, outcome: &Result<(), String>, turn: &mut Turn<'_>) {
        let Some(rollout) = self.rollout.take() else { return };
        let resizes = self.groups.iter_mut().filter_map(|group| group.resize.as_mut());
        resizes.for_each(|resize| resize.is_of_reload = false);
        if rollout.is_upgrade {
            self.upgrade.outcome = Some(outcome.clone());
        }
        for request in rollout.requests {
            turn.answer(request, outcome.clone());
        }
    }

    /// Returns whether a reload is in progress or requested.
    pub(super) fn is_reloading(&self) -> bool {
        self.rollout.is_some() || !self.reloads.is_empty()
    }

    /// Fails all reloads.
    pub(super) fn refuse_reloads(&mut self, why: &str, turn: &mut Turn<'_>) {
        self.end_rollout(&Err(why.to_owned()), turn);
        turn.refuse(self.reloads.drain(..), why);
    }

    /// Returns whether an upgrade is in progress in this version.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrade.stage != UpgradeStage::Waiting
    }

    /// Returns whether no operation may begin, because the new version is about to take over.
    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(self.upgrade.stage, UpgradeStage::Settling | UpgradeStage::HandingOver)
    }

    /// Holds an operation back while the new version takes over. Returns it if it can begin now.
    /// Another upgrade is the same one.
    pub(super) fn hold(
        &mut self,
        request: RequestId,
        change: Operation,
    ) -> Option<(RequestId, Operation)> {
        if self.is_handing_over() && change != Operation::Upgrade {
            self.upgrade.held.push((request, change));
            return None;
        }
        Some((request, change))
    }

    /// Takes the next step of an upgrade when the operations in progress allow it.
    pub(super) fn advance_upgrade(&mut self, turn: &mut Turn<'_>) {
        let is_wanted = !self.upgrade.requests.is_empty();
        match self.upgrade.stage {
            UpgradeStage::Waiting if is_wanted && self.all_ready && self.rollout.is_none() => {
                self.upgrade.stage = UpgradeStage::Trying;
                turn.report(Report::Upgrading);
                turn.act(Action::TryUpgrade);
            }
            UpgradeStage::Settling if self.is_quiet() => {
                self.upgrade.stage = UpgradeStage::HandingOver;
                turn.act(Action::HandOver);
            }
            UpgradeStage::Waiting
            | UpgradeStage::Trying
            | UpgradeStage::Settling
            | UpgradeStage::HandingOver => {}
        }
    }

    /// Returns whether processes may be started. Before an upgrade, only operations in progress are
    /// completed.
    pub(super) fn may_start(&self) -> bool {
        match self.upgrade.stage {
            UpgradeStage::Waiting | UpgradeStage::Trying => true,
            UpgradeStage::Settling => self.is_changing(),
            UpgradeStage::HandingOver => false,
        }
    }

    fn is_changing(&self) -> bool {
        self.rollout.is_some()
            || self.groups.iter().any(|group| group.resize.is_some())
            || self.workers.iter().any(|worker| !worker.restarting.is_empty())
    }

    /// Returns whether no operation is in progress and no process is about to be started.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut processes = self.workers.iter().flat_map(PoolWorker::processes);
        self.is_running()
            && self.all_ready
            && !self.is_changing()
            && processes.all(|process| !matches!(process.stage, Stage::Spawning))
    }

    pub(super) fn tried(&mut self, outcome: Result<(), String>, turn: &mut Turn<'_>) {
        if self.upgrade.stage == UpgradeStage::Trying {
            match outcome {
                Ok(()) => self.upgrade.stage = UpgradeStage::Settling,
                Err(reason) => self.refuse_upgrade(&reason, turn),
            }
        }
    }

    pub(super) fn not_handed_over(&mut self, reason: &str, turn: &mut Turn<'_>) {
        if self.upgrade.stage == UpgradeStage::HandingOver {
            self.refuse_upgrade(reason, turn);
            for (request, change) in std::mem::take(&mut self.upgrade.held) {
                self.change(request, change, turn);
            }
        }
    }

    fn refuse_upgrade(&mut self, reason: &str, turn: &mut Turn<'_>) {
        self.upgrade.stage = UpgradeStage::Waiting;
        let reason = reason.to_owned();
        turn.report(Report::UpgradeRefused { reason: reason.clone() });
        turn.refuse(self.upgrade.requests.drain(..), &reason);
    }

    /// Adds a request that waits since the previous version was the master.
    pub(super) fn rejoin(&mut self, request: RequestId, turn: &mut Turn<'_>) {
        match &mut self.rollout {
            Some(rollout) if rollout.is_upgrade => rollout.requests.push(request),
            _ => {
                let unknown = || Err("the upgrade's outcome is not known".to_owned());
                let outcome = self.upgrade.outcome.clone().unwrap_or_else(unknown);
                turn.answer(request, outcome);
            }
        }
    }

    /// Fails all requests for an upgrade, and the operations that were held back.
    pub(super) fn refuse_upgrades(&mut self, why: &str, turn: &mut Turn<'_>) {
        if self.is_upgrading() {
            self.refuse_upgrade(why, turn);
        }
        let held = self.upgrade.held.drain(..).map(|(request, _)| request);
        turn.refuse(self.upgrade.requests.drain(..).chain(held), why);
    }
}
