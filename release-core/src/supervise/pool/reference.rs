//! For tests: each pool beside one whose workers never rest. Both must do the same.

use super::Pool;
use crate::supervise::{Action, Event, Moment};

impl Pool {
    /// Returns what a pool whose workers never rest does with the event, and when it has a step to do.
    pub(super) fn expect(&mut self, event: &Event, now: Moment) -> Option<Expected> {
        if self.workers.is_restless {
            return None;
        }
        let mut reference = self.reference.take().unwrap_or_else(|| {
            let mut reference = Box::new(self.clone());
            reference.workers.wake_all();
            reference.workers.is_restless = true;
            reference
        });
        let mut actions = Vec::new();
        reference.on(event.clone(), now, &mut actions);
        let deadline = reference.deadline();
        self.reference = Some(reference);
        Some(Expected { actions, deadline })
    }

    /// Returns how often the pool has looked at one of its workers.
    pub(in crate::supervise) fn looks(&self) -> usize {
        self.workers.looks.get()
    }

    pub(super) fn is_as(&self, expected: Option<Expected>, actions: &[Action]) {
        if let Some(expected) = expected {
            assert_eq!(actions, expected.actions, "a worker rested that had a step to do");
            assert_eq!(self.deadline(), expected.deadline, "a worker rested beyond its timer");
        }
    }
}

/// What the pool must do.
pub(super) struct Expected {
    actions: Vec<Action>,
    deadline: Option<Moment>,
}
