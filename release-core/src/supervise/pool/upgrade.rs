//! Another version of the program takes over: tried first, with nothing else under way, and then
//! worker by worker.

use super::{Pool, refuse};
use crate::supervise::process::Stage as At;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, Operation, Report, Ticket};

/// The upgrade that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    tickets: Vec<Ticket>,
    stage: Stage,
    /// Changes that came when it was too late for them to be made by this version.
    held: Vec<(Ticket, Operation)>,
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

    pub(super) fn ask_for_upgrade(&mut self, ticket: Ticket) {
        self.upgrade.tickets.push(ticket);
    }

    /// Keeps a change for later, if this is not the time for it; another upgrade is this one.
    pub(super) fn hold(
        &mut self,
        ticket: Ticket,
        change: Operation,
    ) -> Option<(Ticket, Operation)> {
        if self.is_handing_over() && change != Operation::Upgrade {
            self.upgrade.held.push((ticket, change));
            return None;
        }
        Some((ticket, change))
    }

    /// Takes the next step, as soon as what is under way allows it.
    pub(super) fn advance_upgrade(&mut self, actions: &mut Vec<Action>) {
        let is_wanted = !self.upgrade.tickets.is_empty();
        match self.upgrade.stage {
            Stage::Waiting if is_wanted && self.all_ready && self.rollout.is_none() => {
                self.upgrade.stage = Stage::Trying;
                actions.push(Action::Report(Report::Upgrading));
                actions.push(Action::TryUpgrade);
            }
            Stage::Settling if self.is_quiet() => {
                self.upgrade.stage = Stage::HandingOver;
                actions.push(Action::HandOver);
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

    pub(super) fn tried(&mut self, outcome: Result<(), String>, actions: &mut Vec<Action>) {
        match (&self.upgrade.stage, outcome) {
            (Stage::Trying, Ok(())) => self.upgrade.stage = Stage::Settling,
            (Stage::Trying, Err(reason)) => self.refuse_upgrade(&reason, actions),
            _ => {}
        }
    }

    pub(super) fn not_handed_over(
        &mut self,
        reason: &str,
        now: std::time::Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.upgrade.stage == Stage::HandingOver {
            self.refuse_upgrade(reason, actions);
            for (ticket, change) in std::mem::take(&mut self.upgrade.held) {
                self.change(ticket, change, now, actions);
            }
        }
    }

    fn refuse_upgrade(&mut self, reason: &str, actions: &mut Vec<Action>) {
        self.upgrade.stage = Stage::Waiting;
        let reason = reason.to_owned();
        actions.push(Action::Report(Report::UpgradeRefused { reason: reason.clone() }));
        for ticket in self.upgrade.tickets.drain(..) {
            refuse(ticket, &reason, actions);
        }
    }

    /// Somebody who waited already when the version before was the master.
    pub(super) fn rejoin(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        match &mut self.rollout {
            Some(rollout) if rollout.is_upgrade => rollout.tickets.push(ticket),
            _ => {
                let unknown = || Err("the upgrade's outcome is not known".to_owned());
                let outcome = self.upgrade.outcome.clone().unwrap_or_else(unknown);
                actions.push(Action::Answer { ticket, outcome });
            }
        }
    }

    /// The pool stops: nobody waits for an upgrade any more.
    pub(super) fn refuse_upgrades(&mut self, why: &str, actions: &mut Vec<Action>) {
        if self.is_upgrading() {
            self.refuse_upgrade(why, actions);
        }
        let held = self.upgrade.held.drain(..).map(|(ticket, _)| ticket);
        for ticket in self.upgrade.tickets.drain(..).chain(held) {
            refuse(ticket, why, actions);
        }
    }
}
