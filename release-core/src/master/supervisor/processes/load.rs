//! The load of groups that grow and shrink with it.

use super::Processes;
use crate::process::listeners::Listener;
use crate::supervise::{Event, GroupLoad, Moment};

impl Processes {
    /// Looks at the groups, and returns the changes of their sizes that their load demands.
    pub(in crate::master::supervisor) fn follow_load(&mut self, now: Moment) -> Vec<Event> {
        let pool = self.master.pool();
        let mut changes = Vec::new();
        if pool.is_stopping() || pool.is_rolling() || pool.is_upgrading() || !pool.has_started() {
            return changes;
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            let (Some(elastic), Some(sizes)) = (&mut group.elastic, pool.sizes_of(index)) else {
                continue;
            };
            let queues = group.listeners.iter().filter_map(Listener::queue);
            let waiting = queues.fold(0_u32, |sum, (waiting, _)| sum.saturating_add(waiting));
            if let Some(to) = elastic.look(GroupLoad { waiting, ..sizes }, now) {
                changes.push(Event::Load { group: index, from: sizes.size, to });
            }
        }
        changes
    }
}
