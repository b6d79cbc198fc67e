//! How the processes of a group are replaced by those of another generation.

use std::time::Duration;

use super::policy::LONGEST;

/// The rules by which the workers of a group get new processes while the old ones serve.
///
/// The first new process of a group must be ready, and have lived for the canary time, before its old
/// one is told to stop and others are started. Each of those must be ready before its old one is told to
/// stop. An old process then finishes what it has in hand, up to the master's stop deadline. No more than
/// `surge` workers of the group are in the middle of this at a time, so there are never
/// more processes than workers plus `surge`, those that finish aside.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::ReloadPolicy;
///
/// // Big workers: one at a time, none while another is still finishing, each watched for a while.
/// let careful = ReloadPolicy::default().surge(1).draining(1).canary(Duration::from_secs(5));
/// # let _ = careful;
/// ```
#[derive(Clone, Debug)]
pub struct ReloadPolicy {
    pub(super) surge: Option<u32>,
    pub(super) canary: Duration,
    pub(super) draining: usize,
    /// How long before it is told to stop a process is to get no new work.
    pub(super) leaving: Duration,
    /// The same for a process whose worker is scaled away.
    pub(super) removal: Duration,
}

impl Default for ReloadPolicy {
    fn default() -> Self {
        Self {
            surge: None,
            canary: Duration::from_millis(250),
            draining: 2,
            leaving: Duration::ZERO,
            removal: Duration::ZERO,
        }
    }
}

impl ReloadPolicy {
    /// How many workers are replaced at a time, at least 1 (default: a quarter of the group).
    #[must_use]
    pub fn surge(mut self, workers: u32) -> Self {
        self.surge = Some(workers.max(1));
        self
    }

    /// How long the first new process of a reload must have been ready for its old one to be told to
    /// stop, and for others to follow (default 250 ms); the same for the new process of a restart. A
    /// readiness that is a time ([`Ready::After`](super::Ready::After)) counts: it has lived for that time.
    ///
    /// Any new process that ends within this time while the reload is under way is a failure of the whole
    /// reload.
    #[must_use]
    pub fn canary(mut self, time: Duration) -> Self {
        self.canary = time.min(LONGEST);
        self
    }

    /// How many earlier processes of a worker may be finishing at a time, at least 1 (default 2).
    /// With so many a further reload waits, for the stop deadline at most: no work is cut short to
    /// make room for it.
    #[must_use]
    pub fn draining(mut self, processes: usize) -> Self {
        self.draining = processes.max(1);
        self
    }

    /// How long a process that was ready gets no new work before it is told to stop. It does not apply
    /// when the whole pool stops.
    pub(crate) fn leaving(mut self, time: Duration) -> Self {
        self.leaving = time.min(LONGEST);
        self
    }

    /// [`leaving`](Self::leaving) for a process whose worker is scaled away: no other has its work.
    pub(crate) fn removal(mut self, time: Duration) -> Self {
        self.removal = time.min(LONGEST);
        self
    }

    /// How long a process is not told to stop that has got no new work for that long, but has some left.
    pub(super) fn lingering(&self) -> Duration {
        self.leaving.max(self.removal)
    }

    /// The surge of a group of this size.
    pub(super) fn surge_of(&self, size: u32) -> u32 {
        self.surge.unwrap_or_else(|| size.div_ceil(4)).max(1)
    }
}
