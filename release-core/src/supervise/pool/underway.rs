//! What may be under way in a pool, whatever its workers do.

use std::time::Duration;

use crate::supervise::{Moment, Operation, RequestId, RestartPolicy};

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Rollout {
    pub(super) requests: Vec<RequestId>,
    /// Whether another version of the program is the reason.
    pub(super) is_upgrade: bool,
    /// How many workers the configuration wants in each group, if it says so.
    pub(super) sizes: Vec<Option<u32>>,
    pub(super) stage: RolloutStage,
}

#[derive(Debug)]
pub(super) enum RolloutStage {
    /// The configuration is being read.
    Preparing,
    /// Worker by worker is turned to this generation.
    Rolling { generation: u32 },
    /// That generation serves, and groups are given the sizes that it has for them.
    Sizing { generation: u32 },
    /// The generation before is being restored, for this reason.
    Undoing { reason: String },
}

/// The upgrade that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    pub(super) requests: Vec<RequestId>,
    pub(super) stage: UpgradeStage,
    /// Changes that came when it was too late for them to be made by this version.
    pub(super) held: Vec<(RequestId, Operation)>,
    /// How the one ended that made this version the master.
    pub(super) outcome: Option<Result<(), String>>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) enum UpgradeStage {
    /// Nothing is done about it yet.
    #[default]
    Waiting,
    /// The new version is tried; everything else goes on.
    Trying,
    /// What is under way is finished, and nothing is begun any more.
    Settling,
    /// The new version is about to take over.
    HandingOver,
}

/// How long no process is started beside another one after that has failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A failure that comes later than this is the first of another shortage.
const LULL: Duration = Duration::from_secs(10);

/// Descriptors, processes or memory are missing, which may be there again soon: the processes of the
/// change before are about to end, or those of somebody else.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// When it began, or let a process through, and when it was last noticed.
    times: Option<(Moment, Moment)>,
    /// Until when no process is started beside another one.
    until: Option<Moment>,
}

impl Shortage {
    /// It was noticed. Whether whoever wants a process waits: for as long in all as a process may take
    /// to become ready.
    pub(super) fn bears(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let lull = LULL.max(policy.max.saturating_mul(2));
        let times = self.times.filter(|(_, latest)| now - *latest <= lull);
        let (since, _) = times.unwrap_or((now, now));
        (self.times, self.until) = (Some((since, now)), Some(now + PAUSE));
        now - since < policy.ready_timeout
    }

    /// A process could be started.
    pub(super) fn relent(&mut self, now: Moment) {
        if let Some((since, _)) = &mut self.times {
            *since = now;
        }
    }

    pub(super) fn pass(&mut self, now: Moment) {
        self.until = self.until.filter(|until| now < *until);
    }

    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }
}
