//! The workers of a pool, most of which rest: no step of the pool concerns them until something happens.

use std::collections::BTreeSet;
use std::ops::{Deref, Index, IndexMut};

use crate::supervise::Moment;
use crate::supervise::worker::PoolWorker;

/// All workers, in the order of their ids.
///
/// An event concerns few of a thousand workers. A worker is awake after each access that may change it,
/// and at the time of its timer; the pool looks at workers that are awake only. For resting workers it
/// has sums.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Roster {
    workers: Vec<PoolWorker>,
    /// What the pool knows of each worker that rests. `None` for a worker that is awake.
    rests: Vec<Option<Rest>>,
    awake: BTreeSet<usize>,
    timers: BTreeSet<(Moment, usize)>,
    /// Resting workers of another generation than the one being started, after their groups.
    outdated: BTreeSet<(usize, usize)>,
    sums: Vec<RestSums>,
    /// Number of resting workers that have not arrived.
    not_arrived: usize,
    /// For tests of the pool: a worker never rests.
    #[cfg(test)]
    pub(super) is_restless: bool,
    /// For tests of the pool: how often it has looked at a worker.
    #[cfg(test)]
    pub(super) looks: std::cell::Cell<usize>,
}

/// What the pool knows of a worker while it rests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Time of its next change without an event.
    pub(super) timer: Option<Moment>,
    pub(super) standing: Standing,
}

/// What a worker means to the others of its group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Whether it is being replaced, or becomes one of the generation being started.
    pub(super) takes_turn: bool,
    /// Whether it has a replacement.
    pub(super) is_replaced: bool,
    /// Whether it waits for its turn to become one of the generation being started.
    pub(super) is_outdated: bool,
    /// Whether it serves as the generation being started. True if there is none.
    pub(super) has_arrived: bool,
}

/// Numbers of resting workers of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RestSums {
    pub(super) turns: u32,
    pub(super) replacements: u32,
}

impl Roster {
    pub(super) fn push(&mut self, worker: PoolWorker) {
        self.awake.insert(self.workers.len());
        self.workers.push(worker);
        self.rests.push(None);
    }

    /// Returns the indices of the workers that are awake, in order.
    pub(super) fn awake(&self) -> Vec<usize> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + self.awake.len());
        self.awake.iter().copied().collect()
    }

    /// Returns the workers that are awake, in order.
    pub(super) fn iter_awake(&self) -> impl Iterator<Item = &PoolWorker> {
        self.awake.iter().map(|index| &self.workers[*index])
    }

    /// Returns the next time at which a worker changes without an event.
    pub(super) fn timer(&self) -> Option<Moment> {
        let awake = self.iter_awake().filter_map(|worker| worker.timer(true));
        awake.chain(self.timers.first().map(|(at, _)| *at)).min()
    }

    pub(super) fn sums(&self, group: usize) -> RestSums {
        self.sums.get(group).copied().unwrap_or_default()
    }

    /// Returns whether each worker that rests serves as the generation being started.
    pub(super) fn have_arrived(&self) -> bool {
        self.not_arrived == 0
    }

    fn wake(&mut self, index: usize) {
        let Some(Rest { timer, standing }) = self.rests[index].take() else { return };
        self.awake.insert(index);
        if let Some(at) = timer {
            self.timers.remove(&(at, index));
        }
        let group = self.workers[index].group;
        if standing.is_outdated {
            self.outdated.remove(&(group, index));
        }
        let sums = &mut self.sums[group];
        sums.turns -= u32::from(standing.takes_turn);
        sums.replacements -= u32::from(standing.is_replaced);
        self.not_arrived -= usize::from(!standing.has_arrived);
    }

    pub(super) fn wake_all(&mut self) {
        if self.awake.len() < self.workers.len() {
            (0..self.workers.len()).for_each(|index| self.wake(index));
        }
    }

    pub(super) fn wake_group(&mut self, group: usize) {
        for index in 0..self.workers.len() {
            if self.workers[index].group == group {
                self.wake(index);
            }
        }
    }

    /// Wakes the workers whose timers have expired.
    pub(super) fn wake_due(&mut self, now: Moment) {
        while let Some((_, index)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.wake(index);
        }
    }

    /// Wakes the first workers of a group that wait for their turn.
    pub(super) fn wake_outdated(&mut self, group: usize, count: u32) {
        for _ in 0..count {
            let its = self.outdated.range((group, 0)..(group + 1, 0)).next();
            let Some((_, index)) = its.copied() else { return };
            self.wake(index);
        }
    }

    /// Lets a worker rest that is awake.
    pub(super) fn let_rest(&mut self, index: usize, rest: Rest) {
        let Rest { timer, standing } = rest;
        self.awake.remove(&index);
        self.rests[index] = Some(rest);
        self.timers.extend(timer.map(|at| (at, index)));
        let group = self.workers[index].group;
        if standing.is_outdated {
            self.outdated.insert((group, index));
        }
        if self.sums.len() <= group {
            self.sums.resize(group + 1, RestSums::default());
        }
        let sums = &mut self.sums[group];
        sums.turns += u32::from(standing.takes_turn);
        sums.replacements += u32::from(standing.is_replaced);
        self.not_arrived += usize::from(!standing.has_arrived);
    }

    /// Returns all workers, and wakes them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PoolWorker> {
        self.wake_all();
        self.workers.iter_mut()
    }
}

impl Deref for Roster {
    type Target = [PoolWorker];

    fn deref(&self) -> &[PoolWorker] {
        &self.workers
    }
}

impl Index<usize> for Roster {
    type Output = PoolWorker;

    fn index(&self, index: usize) -> &PoolWorker {
        &self.workers[index]
    }
}

/// Wakes the worker.
impl IndexMut<usize> for Roster {
    fn index_mut(&mut self, index: usize) -> &mut PoolWorker {
        self.wake(index);
        &mut self.workers[index]
    }
}
