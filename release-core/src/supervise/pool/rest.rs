//! Which workers the next step of the pool concerns, and which rest.

use super::Pool;
use super::roster::{Rest, Standing};
use crate::supervise::Moment;
use crate::supervise::worker::PoolWorker;

/// What the steps of all workers depend on, beside the sizes and the tested generations of groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Course {
    is_running: bool,
    is_rolling: bool,
    target: Option<u32>,
}

/// How many more workers of a group may be replaced at the same time.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Workers whose generation may be changed.
    pub(super) turns: u32,
    /// Workers that may get a second process.
    pub(super) replacements: u32,
}

impl Pool {
    /// Wakes the workers for which a step may be due, at this time.
    pub(super) fn wake_due(&mut self, now: Moment) {
        let (is_running, is_rolling) = (self.is_running(), self.is_rolling());
        let course = Course { is_running, is_rolling, target: self.target() };
        if std::mem::replace(&mut self.course, course) != course {
            self.workers.wake_all();
        }
        self.workers.wake_due(now);
    }

    /// Lets the workers rest that need no step before an event or their timers.
    pub(super) fn rest(&mut self, now: Moment) {
        #[cfg(test)]
        if self.workers.is_restless {
            return;
        }
        self.wake_due(now);
        if !self.course.is_running {
            return;
        }
        for index in self.workers.awake() {
            let worker = &self.workers[index];
            if !self.is_step_due(worker) {
                let rest = Rest { timer: worker.timer(true), standing: self.part_of(worker) };
                self.workers.let_rest(index, rest);
            }
        }
    }

    /// Returns whether a worker has a step before it, now or as soon as others let it.
    fn is_step_due(&self, worker: &PoolWorker) -> bool {
        let group = &self.groups[worker.group];
        let policy = &group.spec.reload;
        if !worker.restarting.is_empty() {
            return true;
        }
        if !self.wants(worker) {
            return worker.is_to_be_stopped();
        }
        let is_next = self.course.target == Some(worker.generation);
        worker.awaits_process(policy)
            || worker.awaits_replacement(policy, self.course.is_rolling)
            || worker.is_replacement_due(is_next && group.is_tested(worker.generation))
    }

    /// Returns what a worker means to the others, in the present course.
    fn part_of(&self, worker: &PoolWorker) -> Standing {
        let is_wanted = self.wants(worker);
        let is_replaced = worker.replacement.is_some();
        let Some(target) = self.course.target else {
            let takes_turn = is_wanted && is_replaced;
            return Standing { takes_turn, is_replaced, is_outdated: false, has_arrived: true };
        };
        let is_tested = self.groups[worker.group].is_tested(worker.generation);
        let is_there = worker.is_settled(is_tested) || worker.is_finished();
        let is_outdated = worker.generation != target;
        let is_turning = !is_outdated && !is_there;
        Standing {
            takes_turn: is_wanted && (is_turning || is_replaced),
            is_replaced,
            is_outdated: is_outdated && is_wanted,
            has_arrived: !is_wanted || (!is_outdated && is_there),
        }
    }

    /// Returns whether every worker serves as the generation being started.
    pub(super) fn have_arrived(&self) -> bool {
        let mut awake = self.workers.iter_awake();
        self.workers.have_arrived() && awake.all(|worker| self.part_of(worker).has_arrived)
    }

    pub(super) fn rooms(&self) -> Vec<Room> {
        let all = self.groups.iter().enumerate().map(|(index, group)| {
            let (surge, resting) = (group.surge(), self.workers.sums(index));
            // The first one is the canary of all others.
            let is_tested = self.course.target.is_none_or(|target| group.is_tested(target));
            Room {
                turns: (if is_tested { surge } else { 1 }).saturating_sub(resting.turns),
                replacements: surge.saturating_sub(resting.replacements),
            }
        });
        let mut rooms: Vec<_> = all.collect();
        for worker in self.workers.iter_awake() {
            let (room, standing) = (&mut rooms[worker.group], self.part_of(worker));
            room.turns = room.turns.saturating_sub(u32::from(standing.takes_turn));
            let replacements = u32::from(standing.is_replaced);
            room.replacements = room.replacements.saturating_sub(replacements);
        }
        rooms
    }
}
