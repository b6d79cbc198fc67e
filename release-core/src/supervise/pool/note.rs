//! What an event changes: what is wanted of the workers, or what is known of one of them.

use super::{Mode, Pool};
use crate::supervise::Moment;
use crate::supervise::turn::Turn;
use crate::supervise::{Event, Event as E, KillReason, Usage, WorkerId};

impl Pool {
    /// Events that concern the pool: changes what is wanted.
    pub(super) fn note(&mut self, event: Event, turn: &mut Turn<'_>) {
        match (&self.mode, event) {
            (Mode::Done, _) => {}
            (_, E::StopNow) => {
                self.is_forced = true;
                self.mode = Mode::Killing(KillReason::StopNow);
            }
            (Mode::Idle, E::Start) => self.mode = Mode::Running,
            (Mode::Idle | Mode::Running, E::Stop) => self.stop(turn.now),
            (Mode::Running, E::TaskFailed { reason }) if self.is_rolling_upgrade() => {
                self.undo_rollout(&reason, turn);
            }
            (_, E::Fail { reason } | E::TaskFailed { reason }) => self.fail(reason, turn),
            (Mode::Running, E::Change { request, change }) => {
                if let Some((request, change)) = self.hold(request, change) {
                    self.change(request, change, turn);
                }
            }
            (_, E::Change { request, .. }) => turn.refuse([request], "the pool does not run"),
            (Mode::Running, E::Prepared(outcome)) => self.prepared(outcome, turn),
            (Mode::Running, E::Tried(outcome)) => self.tried(outcome, turn),
            (Mode::Running, E::NotHandedOver { reason }) => {
                self.not_handed_over(&reason, turn);
            }
            (_, E::Rejoin { request }) => self.rejoin(request, turn),
            (Mode::Running, E::Measured(usages)) => self.measured(&usages, turn),
            (Mode::Running, E::Backlog(those)) => self.backlog(&those, turn.now),
            (_, E::Measured(_) | E::Start | E::Stop | E::Prepared(_) | E::Tick) => {}
            (_, E::Tried(_) | E::NotHandedOver { .. } | E::Backlog(_)) => {}
            (_, event) => self.note_worker(event, turn),
        }
    }

    /// Events that concern one worker: changes what is known of it. What its processes do not expect
    /// comes late, twice, or out of nowhere, and is ignored.
    fn note_worker(&mut self, event: Event, turn: &mut Turn<'_>) {
        let Some(index) = subject(&event).and_then(|id| self.index(id)) else {
            return;
        };
        let worker = &mut self.workers[index];
        let spec = &self.groups[worker.group].spec;
        match event {
            E::Spawned { pid, .. } => {
                worker.spawned(pid, spec, turn);
                self.shortage.relent(turn.now);
            }
            E::SpawnFailed { reason, is_short, .. } => {
                self.spawn_failed(index, reason, is_short, turn);
            }
            E::Ready { pid, .. } => worker.ready(pid, spec, turn),
            E::Violation { pid, reason, .. } => {
                let killed = worker.violated(pid, reason, turn);
                self.count_killed(killed);
            }
            E::Hung { pid, how, .. } => worker.hung(pid, how, turn),
            E::Extend { pid, time, .. } => {
                let (id, deadline) = (worker.id, self.stop_deadline);
                let process = worker.find(pid);
                let until = process.and_then(|it| it.extend(id, time, spec, deadline, turn));
                if let (Mode::Stopping { kill_at }, Some(until)) = (&mut self.mode, until) {
                    // Each of the others is killed at its own time.
                    *kill_at = until.max(*kill_at);
                }
            }
            E::Stops { pid, .. } => {
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
            E::Unended { pid, reason, .. } => self.unended(index, pid, reason, turn),
            E::Exited { pid, exit, .. } => self.exited(index, pid, exit, turn),
            _ => {}
        }
    }

    fn backlog(&mut self, those: &[(WorkerId, i32)], now: Moment) {
        for (id, pid) in those {
            let Some(index) = self.index(*id) else { continue };
            let worker = &mut self.workers[index];
            let leaving = self.groups[worker.group].spec.reload.lingering();
            worker.find(*pid).into_iter().for_each(|process| process.linger(leaving, now));
        }
    }

    fn measured(&mut self, usages: &[Usage], turn: &mut Turn<'_>) {
        for usage in usages {
            if let Some(index) = self.index(usage.id) {
                self.workers[index].measured(usage, turn);
            }
        }
    }
}

/// The worker that an event is about.
fn subject(event: &Event) -> Option<WorkerId> {
    match *event {
        E::Spawned { id, .. }
        | E::SpawnFailed { id, .. }
        | E::Ready { id, .. }
        | E::Exited { id, .. }
        | E::Unended { id, .. }
        | E::Violation { id, .. }
        | E::Hung { id, .. }
        | E::Extend { id, .. }
        | E::Stops { id, .. }
        | E::Status { id, .. } => Some(id),
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
        | E::Fail { .. }
        | E::TaskFailed { .. }
        | E::Tick => None,
    }
}
