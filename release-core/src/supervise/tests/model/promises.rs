//! What the pool may do, and what must hold afterwards.

use super::{Memory, Model, Process};
use crate::supervise::*;

impl Model {
    /// Whether the pool may ask for this now.
    pub(in crate::supervise::tests) fn accept(&mut self, action: &Action, now: Moment) {
        assert!(self.done.is_none(), "{action:?} after Done");
        match *action {
            Action::Spawn { id, .. } => {
                assert!(self.running(), "a spawn while not running");
                assert!(!self.live.contains_key(&id), "a second process");
                assert!(self.spawning.insert(id), "a second spawn");
                let (group, memory) = &self.workers[&id];
                assert!(!self.waits(*group), "a start out of order");
                assert!(memory.due.is_none_or(|(earliest, _)| earliest <= now));
            }
            Action::Signal { id, pid, signal } => self.signalled(id, pid, signal, now),
            Action::Report(ref report) => self.reported(report, now),
            Action::Prepare | Action::TryUpgrade | Action::HandOver | Action::Answer { .. } => {
                panic!("nobody asked for a change")
            }
            Action::AllReady => {
                assert!(self.all_ready && !self.said_all_ready);
                self.said_all_ready = true;
            }
            Action::Done(ref outcome) => {
                assert!(self.stopping() && self.live.is_empty() && self.spawning.is_empty());
                match outcome {
                    Outcome::Failed { .. } => assert!(self.failed),
                    Outcome::Killed { workers } => assert!(!self.failed && *workers == self.killed),
                    Outcome::Stopped => assert!(!self.failed && self.killed == 0),
                }
                self.done = Some(outcome.clone());
            }
        }
    }

    fn signalled(&mut self, id: WorkerId, pid: i32, signal: Signal, now: Moment) {
        let (stopping, kill_at) = (self.stopping(), self.kill_at);
        let process = self.live.get_mut(&id).expect("a signal to nobody");
        assert_eq!(process.pid, pid);
        assert!(!process.killed, "a signal to a killed process");
        match signal {
            Signal::Terminate => {
                assert!(stopping && !process.asked);
                process.asked = true;
                process.ends = kill_at.map(|at| (now, at.min(now + self.stop_deadline)));
            }
            Signal::Kill => {
                process.killed = true;
                self.killed += usize::from(stopping);
            }
        }
    }

    fn reported(&mut self, report: &Report, now: Moment) {
        match report {
            Report::Died { id, restart_in, .. }
            | Report::SpawnFailed { id, retry_in: restart_in, .. } => {
                let (_, memory) = self.workers.get_mut(id).unwrap();
                assert_eq!(restart_in.is_some(), memory.delay.is_some());
                if let (Some(delay), Some((low, high))) = (restart_in, memory.delay) {
                    assert!(low <= *delay && *delay <= high, "{low:?} {delay:?} {high:?}");
                    // From now on exactly.
                    memory.due = Some((now + *delay, now + *delay));
                }
            }
            Report::Killed { id, reason, .. } => {
                let process = &self.live[id];
                match reason {
                    KillReason::NotReady(_) => {
                        assert!(process.ready.is_none() && now >= process.ready_by);
                    }
                    KillReason::Hung(_) => assert!(process.hung),
                    KillReason::Violation(_) => assert!(process.violated),
                    KillReason::StopDeadline => {
                        assert!(process.is_late(now) || self.kill_at.is_some_and(|at| at <= now));
                    }
                    KillReason::StopNow => assert!(self.forced),
                }
            }
            Report::Failing { .. } => {
                assert!(self.failed && !self.said_failing);
                self.said_failing = true;
            }
            Report::TooFast { group } => {
                let index = self.specs.iter().position(|spec| spec.name == *group).unwrap();
                assert!(std::mem::take(&mut self.deaths[index].unsaid));
            }
            Report::Started { .. }
            | Report::Ready { .. }
            | Report::Extended { .. }
            | Report::WorkerStopping { .. }
            | Report::LeftBehind { .. } => {}
            other => panic!("nobody asked for a change: {other:?}"),
        }
    }

    /// What must hold when everything has been carried out.
    pub(in crate::supervise::tests) fn check(&self, pool: &Pool, now: Moment) {
        assert_eq!(self.said_all_ready, self.all_ready);
        assert_eq!(self.said_failing, self.failed);
        assert!(self.deaths.iter().all(|deaths| !deaths.unsaid));
        let over = self.stopping() && self.live.is_empty();
        assert_eq!(self.done.is_some(), over, "Done when and only when all is over");
        for process in self.live.values() {
            assert!(!self.stopping() || process.is_doomed(), "nobody is forgotten");
            let late = self.forced || self.kill_at.is_some_and(|at| at <= now);
            assert!(
                process.killed
                    || !(late || process.is_late(now) || process.violated || process.hung),
                "killed when due"
            );
        }
        let status = pool.status(now);
        assert_eq!(status.len(), self.workers.len());
        for (status, (id, (group, memory))) in status.iter().zip(&self.workers) {
            assert_eq!((status.id, status.group), (*id, &*self.specs[*group].name));
            assert_eq!(status.restarts, memory.starts.saturating_sub(1));
            assert_eq!(status.pid, self.live.get(id).map(|p| p.pid));
            assert_eq!(status.state, self.state(*id, now));
        }
        self.check_deadline(pool.deadline(), now);
    }

    fn state(&self, id: WorkerId, now: Moment) -> State {
        match self.live.get(&id) {
            Some(process) if process.is_doomed() => State::Stopping,
            Some(process) if process.ready.is_some() => State::Ready,
            Some(process) => {
                assert!(now < process.ready_by, "killed when not ready in time");
                State::Starting
            }
            None if self.running() => {
                let (group, memory) = &self.workers[&id];
                if memory.due.is_none() && self.waits(*group) {
                    return State::Waiting;
                }
                let (_, latest) = memory.due.expect("a reason to wait");
                assert!(now < latest, "started when due");
                State::Waiting
            }
            None => State::Gone,
        }
    }

    /// Whether a group comes after another one that has not been ready.
    fn waits(&self, group: usize) -> bool {
        let is_after = |it: &usize| self.specs[group].after.contains(&self.specs[*it].name);
        let mut others = self.workers.values().filter(|(other, _)| is_after(other));
        !self.all_ready && others.any(|(_, memory)| !memory.was_ready)
    }

    /// The deadline is the earliest of what is timed, which is never overdue.
    fn check_deadline(&self, deadline: Option<Moment>, now: Moment) {
        let timer = |(id, (_, memory)): (&WorkerId, &(usize, Memory))| match self.live.get(id) {
            Some(process) if process.killed => None,
            Some(Process { ends: Some((_, kill_by)), .. }) => Some(*kill_by),
            Some(process) if process.ready.is_some() => None,
            Some(process) => Some(process.ready_by),
            None => memory.due.map(|(_, latest)| latest).filter(|_| !self.stopping()),
        };
        let expected = match self.kill_at {
            _ if self.done.is_some() || self.forced => None,
            Some(kill_at) => {
                let timers = self.workers.iter().filter_map(timer);
                Some(timers.chain([kill_at]).min().unwrap_or(kill_at)).filter(|_| now < kill_at)
            }
            None => self.workers.iter().filter_map(timer).min(),
        };
        assert_eq!(deadline, expected);
        assert!(deadline.is_none_or(|deadline| now < deadline));
    }
}
