//! The sizes of a group, for the decision whether it grows or shrinks.

use super::Pool;
use crate::supervise::GroupLoad;

impl Pool {
    /// Returns the sizes of a group, if the group exists and no change of its size is in progress.
    pub(crate) fn sizes_of(&self, group: usize) -> Option<GroupLoad> {
        let its = self.groups.get(group).filter(|its| !its.is_gone && its.resize.is_none())?;
        let ready = self.workers.iter().filter(|worker| worker.group == group && worker.is_ready());
        let ready = u32::try_from(ready.count()).unwrap_or(u32::MAX);
        Some(GroupLoad { configured: its.configured, size: its.spec.size, ready, waiting: 0 })
    }
}
