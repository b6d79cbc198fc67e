//! Operations in progress, independent of the workers.

use std::time::Duration;

use crate::supervise::{Moment, Operation, RequestId, RestartPolicy};

/// A reload in progress.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Rollout {
    pub(super) requests: Vec<RequestId>,
    /// Whether a new version of the program is the reason.
    pub(super) is_upgrade: bool,
    /// Number of workers for each group in the configuration, if it has one.
    pub(super) sizes: Vec<Option<u32>>,
    pub(super) stage: RolloutStage,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) enum RolloutStage {
    /// Reads the configuration.
    Preparing,
    /// Replaces worker by worker with this generation.
    Rolling { generation: u32 },
    /// Resizes groups. The generation serves.
    Sizing { generation: u32 },
    /// Restores the previous generation for this reason.
    Undoing { reason: String },
}

/// An upgrade, requested or in progress.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Upgrade {
    pub(super) requests: Vec<RequestId>,
    pub(super) stage: UpgradeStage,
    /// Operations that arrived too late for this version.
    pub(super) held: Vec<(RequestId, Operation)>,
    /// Outcome of the upgrade that made this version the master.
    pub(super) outcome: Option<Result<(), String>>,
}

#[derive(Debug, Default, PartialEq)]
#[cfg_attr(test, derive(Clone))]
pub(super) enum UpgradeStage {
    /// Not begun.
    #[default]
    Waiting,
    /// Checks the new version. Everything else goes on.
    Trying,
    /// Completes the operations in progress and begins no other.
    Settling,
    /// The new version is about to take over.
    HandingOver,
}

/// Time without a further replacement after one could not be started.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A failure after this time begins a new shortage.
const LULL: Duration = Duration::from_secs(10);

/// A lack of descriptors, processes or memory, which may end soon: processes of the previous
/// operation are about to exit, or those of another program.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Shortage {
    /// When it began, or last allowed a process, and when it was last noticed.
    times: Option<(Moment, Moment)>,
    /// Until when no replacement is started.
    until: Option<Moment>,
}

impl Shortage {
    /// Notes a failure. Returns whether the operation should wait, in total as long as a process
    /// may take to become ready.
    pub(super) fn should_wait(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let lull = LULL.max(policy.max.saturating_mul(2));
        let times = self.times.filter(|(_, latest)| now - *latest <= lull);
        let (since, _) = times.unwrap_or((now, now));
        (self.times, self.until) = (Some((since, now)), Some(now + PAUSE));
        now - since < policy.ready_timeout
    }

    /// Notes that a process could be started.
    pub(super) fn note_spawned(&mut self, now: Moment) {
        if let Some((since, _)) = &mut self.times {
            *since = now;
        }
    }

    pub(super) fn expire(&mut self, now: Moment) {
        self.until = self.until.filter(|until| now < *until);
    }

    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }
}
