//! The sizes of a group, and the change of its size that its load demands.

use super::Pool;
use crate::supervise::GroupLoad;
use crate::supervise::group::Resize;
use crate::supervise::turn::Turn;

impl Pool {
    /// Returns the sizes of a group, if the group exists and nobody waits for a change of its size.
    pub(crate) fn sizes_of(&self, group: usize) -> Option<GroupLoad> {
        let its = self.groups.get(group).filter(|its| !its.is_gone && !its.is_awaited())?;
        let settled = self.workers.iter().filter(|worker| {
            worker.group == group
                && self.wants(worker)
                && (worker.is_ready() || worker.is_finished())
        });
        let settled = u32::try_from(settled.count()).unwrap_or(u32::MAX);
        Some(GroupLoad { configured: its.configured, size: its.spec.size, settled, waiting: 0 })
    }

    /// Gives a group the size that its load demands, unless somebody has changed its size since then. A
    /// former change of this kind may still wait for the end of removed workers.
    pub(super) fn follow_load(&mut self, group: usize, from: u32, to: u32, turn: &mut Turn<'_>) {
        if self.is_rolling() || self.sizes_of(group).is_none_or(|sizes| sizes.size != from) {
            return;
        }
        let its = &mut self.groups[group];
        its.resize = Some(Resize {
            requests: Vec::new(),
            is_of_reload: false,
            before: from,
            configured: its.configured,
            least: from.min(to),
        });
        self.set_size(group, to, turn);
    }
}
