//! What an event changes: what is wanted of the workers, or what is known of one of them.

use std::time::Instant;

use super::{Mode, Pool, refuse};
use crate::supervise::{Action, Event, Event as E, KillReason, Usage, WorkerId};

impl Pool {
    /// Events that concern the pool: changes what is wanted.
    pub(super) fn note(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match (&self.mode, event) {
            (Mode::Done, _) => {}
            (_, E::StopNow) => {
                self.is_forced = true;
                self.mode = Mode::Killing(KillReason::StopNow);
            }
            (Mode::Idle, E::Start) => self.mode = Mode::Running,
            (Mode::Idle | Mode::Running, E::Stop) => self.stop(now),
            (Mode::Running, E::TaskFailed { reason }) if self.is_rolling_upgrade() => {
                self.undo_rollout(&reason, now, actions);
            }
            (_, E::Fail { reason } | E::TaskFailed { reason }) => self.fail(reason, now, actions),
            (Mode::Running, E::Change { ticket, change }) => {
                if let Some((ticket, change)) = self.hold(ticket, change) {
                    self.change(ticket, change, now, actions);
                }
            }
            (_, E::Change { ticket, .. }) => refuse(ticket, "the pool does not run", actions),
            (Mode::Running, E::Prepared(outcome)) => self.prepared(outcome, actions),
            (Mode::Running, E::Tried(outcome)) => self.tried(outcome, actions),
            (Mode::Running, E::NotHandedOver { reason }) => {
                self.not_handed_over(&reason, now, actions);
            }
            (_, E::Rejoin { ticket }) => self.rejoin(ticket, actions),
            (Mode::Running, E::Measured(usages)) => self.measured(&usages, now, actions),
            (Mode::Running, E::Backlog(those)) => self.backlog(&those, now),
            (_, E::Measured(_) | E::Start | E::Stop | E::Prepared(_) | E::Tick) => {}
            (_, E::Tried(_) | E::NotHandedOver { .. } | E::Backlog(_)) => {}
            (_, event) => self.note_worker(event, now, actions),
        }
    }

    /// Events that concern one worker: changes what is known of it. What its processes do not expect
    /// comes late, twice, or out of nowhere, and is ignored.
    fn note_worker(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        let Some(index) = subject(&event).and_then(|id| self.index(id)) else {
            return;
        };
        let worker = &mut self.workers[index];
        let spec = &self.groups[worker.group].spec;
        match event {
            E::Spawned { pid, .. } => {
                worker.spawned(pid, spec, &mut self.jitter, now, actions);
                self.shortage.relent(now);
            }
            E::SpawnFailed { reason, is_short, .. } => {
                self.spawn_failed(index, reason, is_short, now, actions);
            }
            E::Ready { pid, .. } => worker.ready(pid, spec, now, actions),
            E::Violation { pid, reason, .. } => {
                let killed = worker.violated(pid, reason, now, actions);
                self.count_killed(killed);
            }
            E::Hung { pid, how, .. } => worker.hung(pid, how, now, actions),
            E::Extend { pid, time, .. } => {
                let (id, deadline) = (worker.id, self.stop_deadline);
                let process = worker.find(pid);
                let until =
                    process.and_then(|it| it.extend(id, time, spec, deadline, now, actions));
                if let (Mode::Stopping { kill_at }, Some(until)) = (&mut self.mode, until) {
                    // Each of the others is killed at its own time.
                    *kill_at = until.max(*kill_at);
                }
            }
            E::Stops { pid, .. } => {
                let (id, kill_at) = (worker.id, now + self.stop_deadline);
                if let Some(process) = worker.find(pid) {
                    process.stops(id, kill_at, now, actions);
                }
            }
            E::Status { pid, text, .. } => {
                if let Some(process) = worker.find(pid) {
                    process.status_text = Some(text);
                }
            }
            E::Unended { pid, reason, .. } => self.unended(index, pid, reason, now, actions),
            E::Exited { pid, exit, .. } => self.exited(index, pid, exit, now, actions),
            _ => {}
        }
    }

    fn backlog(&mut self, those: &[(WorkerId, i32)], now: Instant) {
        for (id, pid) in those {
            let Some(index) = self.index(*id) else { continue };
            let worker = &mut self.workers[index];
            let leaving = self.groups[worker.group].spec.reload.lingering();
            worker.find(*pid).into_iter().for_each(|process| process.linger(leaving, now));
        }
    }

    fn measured(&mut self, usages: &[Usage], now: Instant, actions: &mut Vec<Action>) {
        for usage in usages {
            if let Some(index) = self.index(usage.id) {
                self.workers[index].measured(usage, now, actions);
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
