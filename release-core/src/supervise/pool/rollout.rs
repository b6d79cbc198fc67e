//! A new generation: started worker by worker, and taken back when it fails.

use super::Pool;
use crate::supervise::process::Process;
use crate::supervise::turn::Turn;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, Report, RequestId};

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Rollout {
    pub(super) requests: Vec<RequestId>,
    /// Whether another version of the program is the reason.
    pub(super) is_upgrade: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The configuration is being read.
    Preparing,
    /// Worker by worker is turned to this generation.
    Rolling { generation: u32 },
    /// The generation before is being restored, for this reason.
    Undoing { reason: String },
}

/// How many more workers of a group may be in the middle of a replacement.
#[derive(Clone, Copy)]
struct Room {
    /// Workers that may be turned to another generation.
    turns: u32,
    /// Workers that may get a process beside the one they have.
    replacements: u32,
}

impl Pool {
    /// The generation that workers are being turned to.
    pub(super) fn target(&self) -> Option<u32> {
        match self.rollout.as_ref()?.stage {
            Stage::Rolling { generation } => Some(generation),
            Stage::Preparing | Stage::Undoing { .. } => None,
        }
    }

    /// Whether workers are being replaced because of a reload.
    pub(crate) fn is_rolling(&self) -> bool {
        let stage = self.rollout.as_ref().map(|rollout| &rollout.stage);
        matches!(stage, Some(Stage::Rolling { .. } | Stage::Undoing { .. }))
    }

    /// Begins what was asked for, once the pool stands and nothing else is under way.
    pub(super) fn begin_rollout(&mut self, turn: &mut Turn<'_>) {
        let is_free = self.rollout.is_none() && !self.is_upgrading();
        if self.all_ready && is_free && !self.reloads.is_empty() {
            let requests = std::mem::take(&mut self.reloads);
            self.rollout = Some(Rollout { requests, is_upgrade: false, stage: Stage::Preparing });
            turn.act(Action::Prepare);
        }
    }

    /// The new version has its configuration already.
    pub(super) fn begin_upgraded_rollout(&mut self, turn: &mut Turn<'_>) {
        self.latest = self.latest.saturating_add(1);
        let generation = self.latest;
        let stage = Stage::Rolling { generation };
        self.rollout = Some(Rollout { requests: Vec::new(), is_upgrade: true, stage });
        turn.report(Report::Reloading { generation });
    }

    pub(super) fn prepared(&mut self, outcome: Result<(), String>, turn: &mut Turn<'_>) {
        let Some(Rollout { stage: stage @ Stage::Preparing, .. }) = &mut self.rollout else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.latest = self.latest.saturating_add(1);
                let generation = self.latest;
                *stage = Stage::Rolling { generation };
                turn.report(Report::Reloading { generation });
            }
            Err(reason) => {
                turn.report(Report::ReloadRefused { reason: reason.clone() });
                self.end_rollout(&Err(reason), turn);
            }
        }
    }

    /// Starts processes where none serves, and beside those that are to be replaced.
    pub(super) fn start_what_is_missing(&mut self, turn: &mut Turn<'_>) {
        let target = self.target();
        let mut rooms = self.rooms(target);
        let is_rolling = self.is_rolling();
        for worker in &mut self.workers {
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
                worker.turn_to(target, turn.now);
            }
            worker.fill(&group.spec.reload, turn);
        }
        if self.shortage.until().is_some() {
            // Those that are to be replaced serve on.
            return;
        }
        let groups = &self.groups;
        let awaits_replacement = |worker: &&mut Worker| {
            let group = &groups[worker.group];
            group.wants(worker.rank) && worker.awaits_replacement(&group.spec.reload, is_rolling)
        };
        let mut due: Vec<_> = self.workers.iter_mut().filter(awaits_replacement).collect();
        // What somebody asked for comes first. Of those over a limit, whoever has waited longest: one
        // that is over it again and again leaves room for the others.
        due.sort_by_key(|worker| worker.worn_since());
        for worker in due {
            let room = &mut rooms[worker.group];
            if room.replacements > 0 {
                room.replacements -= 1;
                worker.spawn_replacement(turn);
            }
        }
    }

    fn rooms(&self, target: Option<u32>) -> Vec<Room> {
        let all = self.groups.iter().map(|group| {
            let surge = group.surge();
            // The first one is the canary of all others.
            let is_tested = target.is_none_or(|target| group.is_tested(target));
            Room { turns: if is_tested { surge } else { 1 }, replacements: surge }
        });
        let mut rooms: Vec<_> = all.collect();
        for worker in &self.workers {
            let room = &mut rooms[worker.group];
            let is_tested = self.groups[worker.group].is_tested(worker.generation);
            let is_turning = target == Some(worker.generation)
                && !worker.is_settled(is_tested)
                && !worker.is_over();
            let is_replaced = worker.replacement.is_some();
            if self.wants(worker) && (is_turning || is_replaced) {
                room.turns = room.turns.saturating_sub(1);
            }
            if is_replaced {
                room.replacements = room.replacements.saturating_sub(1);
            }
        }
        rooms
    }

    /// A process that nobody told to end has ended, or could not be started. One of the generation
    /// that is being started, and not proven yet, takes that generation with it.
    pub(super) fn note_failed_generation(
        &mut self,
        process: &Process,
        reason: &str,
        turn: &mut Turn<'_>,
    ) {
        if process.is_proven || self.target() != Some(process.generation) {
            return;
        }
        self.undo_rollout(reason, turn);
    }

    /// Whether the workers of another version of the program are being started, or taken back.
    pub(super) fn is_rolling_upgrade(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.is_upgrade)
    }

    /// The generation before is restored, unless that is under way.
    pub(super) fn undo_rollout(&mut self, reason: &str, turn: &mut Turn<'_>) {
        let (Some(failed), restored) = (self.target(), self.generation) else { return };
        let reason = reason.to_owned();
        if let Some(rollout) = &mut self.rollout {
            let (generation, why) = (failed, reason.clone());
            turn.report(match rollout.is_upgrade {
                true => Report::UpgradeRolledBack { generation, reason: why },
                false => Report::RolledBack { generation, reason: why },
            });
            rollout.stage = Stage::Undoing { reason };
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.generation == failed) {
            worker.turn_to(restored, turn.now);
        }
    }

    /// The old generation cannot be restored as fast as was hoped: it goes on, but nobody has to
    /// wait for it.
    pub(super) fn note_failed_restoration(&mut self, why: &str, turn: &mut Turn<'_>) {
        if let Some(Rollout { stage: Stage::Undoing { reason }, .. }) = &self.rollout {
            let reason = format!("{reason}; and the workers before it cannot be restored: {why}");
            self.end_rollout(&Err(reason), turn);
        }
    }

    /// Answers when every worker has come to where it was to go.
    pub(super) fn conclude_rollout(&mut self, turn: &mut Turn<'_>) {
        let mut wanted = self.workers.iter().filter(|worker| self.wants(worker));
        let is_upgrade = self.rollout.as_ref().is_some_and(|rollout| rollout.is_upgrade);
        match self.rollout.as_ref().map(|rollout| &rollout.stage) {
            Some(&Stage::Rolling { generation })
                if wanted.all(|it| self.has_arrived(it, generation)) =>
            {
                self.generation = generation;
                turn.report(match is_upgrade {
                    true => Report::Upgraded { generation },
                    false => Report::Reloaded { generation },
                });
                self.end_rollout(&Ok(()), turn);
            }
            Some(Stage::Undoing { reason }) if wanted.all(|worker| worker.is_at_rest()) => {
                let reason = reason.clone();
                self.end_rollout(&Err(reason), turn);
            }
            _ => {}
        }
    }

    /// Whether a worker does its job as this generation.
    fn has_arrived(&self, worker: &Worker, generation: u32) -> bool {
        let is_tested = self.groups[worker.group].is_tested(generation);
        worker.generation == generation && (worker.is_settled(is_tested) || worker.is_over())
    }

    fn end_rollout(&mut self, outcome: &Result<(), String>, turn: &mut Turn<'_>) {
        let Some(rollout) = self.rollout.take() else { return };
        if rollout.is_upgrade {
            self.upgrade.outcome = Some(outcome.clone());
        }
        for request in rollout.requests {
            turn.answer(request, outcome.clone());
        }
    }

    /// Whether a reload is under way or asked for.
    pub(super) fn is_reloading(&self) -> bool {
        self.rollout.is_some() || !self.reloads.is_empty()
    }

    /// The pool stops: nobody waits for a reload any more.
    pub(super) fn refuse_reloads(&mut self, why: &str, turn: &mut Turn<'_>) {
        self.end_rollout(&Err(why.to_owned()), turn);
        for request in self.reloads.drain(..) {
            turn.refuse([request], why);
        }
    }
}
