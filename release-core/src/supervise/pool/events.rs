//! The events of the pool and of its workers.

use super::{Goal, Pool};
use crate::supervise::turn::Turn;
use crate::supervise::{Event, Event as E, KillReason};

impl Pool {
    /// Processes events about the pool, which change the desired state.
    pub(super) fn note(&mut self, event: Event, turn: &mut Turn<'_>) {
        match (&self.mode, event) {
            (Goal::Done, _) => {}
            (_, E::StopNow) => {
                self.is_forced = true;
                self.mode = Goal::Killing(KillReason::StopNow);
            }
            (Goal::Idle, E::Start) => self.mode = Goal::Running,
            (Goal::Idle | Goal::Running, E::Stop) => self.stop(turn.now),
            (Goal::Running, E::TaskFailed { reason }) if self.is_rolling_upgrade() => {
                self.undo_rollout(&reason, turn);
            }
            (_, E::Fail { reason } | E::TaskFailed { reason }) => self.fail(reason, turn),
            (Goal::Running, E::Change { request, change }) => {
                if let Some((request, change)) = self.hold(request, change) {
                    self.change(request, change, turn);
                }
            }
            (_, E::Change { request, .. }) => turn.refuse([request], "the pool does not run"),
            (Goal::Running, E::Prepared(outcome)) => self.prepared(outcome, turn),
            (Goal::Running, E::Tried(outcome)) => self.tried(outcome, turn),
            (Goal::Running, E::NotHandedOver { reason }) => {
                self.not_handed_over(&reason, turn);
            }
            (_, E::Rejoin { request }) => self.rejoin(request, turn),
            (Goal::Running, E::Measured(usages)) => self.measured(&usages, turn),
            (Goal::Running, E::Backlog(queued)) => self.backlog(&queued, turn.now),
            (_, E::Measured(_) | E::Start | E::Stop | E::Prepared(_) | E::Tick) => {}
            (Goal::Running, E::Load { group, from, to }) if !self.is_upgrading() => {
                self.follow_load(group, from, to, turn);
            }
            (_, E::Tried(_) | E::NotHandedOver { .. } | E::Backlog(_) | E::Load { .. }) => {}
            (_, event) => self.note_worker(event, turn),
        }
    }

    /// Processes events about one worker, which change its present state. Ignores an event that no
    /// process expects: it is late, a duplicate, or unfounded.
    fn note_worker(&mut self, event: Event, turn: &mut Turn<'_>) {
        let Some(index) = event.worker().and_then(|id| self.index(id)) else {
            return;
        };
        let worker = &mut self.workers[index];
        let spec = &self.groups[worker.group].spec;
        match event {
            E::Spawned { pid, .. } => {
                worker.spawned(pid, spec, turn);
                self.shortage.note_spawned(turn.now);
            }
            E::SpawnFailed { reason, is_short, .. } => {
                self.spawn_failed(index, reason, is_short, turn);
            }
            E::Ready { pid, .. } => worker.ready(pid, spec, turn),
            E::Violation { pid, reason, .. } => {
                let killed = worker.violated(pid, reason, turn);
                self.count_killed(killed);
            }
            E::Hung { pid, how, .. } => {
                let killed = worker.hung(pid, how, turn);
                self.count_killed(killed);
            }
            E::Extend { pid, time, .. } => self.extend(index, pid, time, turn),
            E::Stopping { pid, .. } => {
                let (id, kill_at) = (worker.id, turn.now + self.stop_deadline);
                if let Some(process) = worker.find(pid) {
                    process.stops(id, kill_at, turn);
                }
            }
            E::Status { pid, text, .. } => {
                if let Some(process) = worker.find(pid) {
                    process.status_text = Some(text);
                }
            }
            E::KillFailed { pid, reason, .. } => self.kill_failed(index, pid, reason, turn),
            E::Exited { pid, exit, .. } => self.exited(index, pid, exit, turn),
            // Events about the pool.
            E::Start
            | E::Stop
            | E::StopNow
            | E::Change { .. }
            | E::Prepared(_)
            | E::Tried(_)
            | E::NotHandedOver { .. }
            | E::Rejoin { .. }
            | E::Measured(_)
            | E::Backlog(_)
            | E::Load { .. }
            | E::Fail { .. }
            | E::TaskFailed { .. }
            | E::Tick => {}
        }
    }
}
