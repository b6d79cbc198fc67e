//! Another version of the program takes over: tried first, with nothing else under way, and then
//! worker by worker.

use super::Pool;
use crate::supervise::process::Stage as At;
use crate::supervise::turn::Turn;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, Operation, Report, RequestId};

/// The upgrade that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    requests: Vec<RequestId>,
    stage: Stage,
    /// Changes that came when it was too late for them to be made by this version.
    held: Vec<(RequestId, Operation)>,
    /// How the one ended that made this version the master.
    pub(super) outcome: Option<Result<(), String>>,
}

#[derive(Debug, Default, PartialEq)]
enum Stage {
    /// Nothing is done about it yet.
    #[default]
    Waiting,
    /// The new version is tried; everything else goes on.
    Trying,
    /// What is under way is finished, and nothing is begun any more.
    Settling,
    /// The new version is about to take over.
    HandingOver,
}

impl Pool {
    /// Whether an upgrade is under way in this version.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrade.stage != Stage::Waiting
    }

    /// Whether nothing is begun any more, because the new version is about to take over.
    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(self.upgrade.stage, Stage::Settling | Stage::HandingOver)
    }

    pub(super) fn ask_for_upgrade(&mut self, request: RequestId) {
        self.upgrade.requests.push(request);
    }

    /// Keeps a change for later, if this is not the time for it; another upgrade is this one.
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

    /// Takes the next step, as soon as what is under way allows it.
    pub(super) fn advance_upgrade(&mut self, turn: &mut Turn<'_>) {
        let is_wanted = !self.upgrade.requests.is_empty();
        match self.upgrade.stage {
            Stage::Waiting if is_wanted && self.all_ready && self.rollout.is_none() => {
                self.upgrade.stage = Stage::Trying;
                turn.report(Report::Upgrading);
                turn.act(Action::TryUpgrade);
            }
            Stage::Settling if self.is_quiet() => {
                self.upgrade.stage = Stage::HandingOver;
                turn.act(Action::HandOver);
            }
            _ => {}
        }
    }

    /// Whether processes may be started. For the upgrade only what is under way is finished.
    pub(super) fn may_start(&self) -> bool {
        match self.upgrade.stage {
            Stage::Waiting | Stage::Trying => true,
            Stage::Settling => self.is_changing(),
            Stage::HandingOver => false,
        }
    }

    fn is_changing(&self) -> bool {
        self.rollout.is_some()
            || self.groups.iter().any(|group| group.resize.is_some())
            || self.workers.iter().any(|worker| !worker.restarting.is_empty())
    }

    /// Whether no change is under way and no process is about to be started.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut processes = self.workers.iter().flat_map(Worker::processes);
        self.is_running()
            && self.all_ready
            && !self.is_changing()
            && processes.all(|process| !matches!(process.stage, At::Spawning))
    }

    pub(super) fn tried(&mut self, outcome: Result<(), String>, turn: &mut Turn<'_>) {
        match (&self.upgrade.stage, outcome) {
            (Stage::Trying, Ok(())) => self.upgrade.stage = Stage::Settling,
            (Stage::Trying, Err(reason)) => self.refuse_upgrade(&reason, turn),
            _ => {}
        }
    }

    pub(super) fn not_handed_over(&mut self, reason: &str, turn: &mut Turn<'_>) {
        if self.upgrade.stage == Stage::HandingOver {
            self.refuse_upgrade(reason, turn);
            for (request, change) in std::mem::take(&mut self.upgrade.held) {
                self.change(request, change, turn);
            }
        }
    }

    fn refuse_upgrade(&mut self, reason: &str, turn: &mut Turn<'_>) {
        self.upgrade.stage = Stage::Waiting;
        let reason = reason.to_owned();
        turn.report(Report::UpgradeRefused { reason: reason.clone() });
        for request in self.upgrade.requests.drain(..) {
            turn.refuse([request], &reason);
        }
    }

    /// Somebody who waited already when the version before was the master.
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

    /// The pool stops: nobody waits for an upgrade any more.
    pub(super) fn refuse_upgrades(&mut self, why: &str, turn: &mut Turn<'_>) {
        if self.is_upgrading() {
            self.refuse_upgrade(why, turn);
        }
        let held = self.upgrade.held.drain(..).map(|(request, _)| request);
        for request in self.upgrade.requests.drain(..).chain(held) {
            turn.refuse([request], why);
        }
    }
}
