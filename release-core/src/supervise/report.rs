//! What the pool tells the log, and why it kills.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Exit, WorkerId};

/// Something that the log should say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A process was started.
    Started {
        /// The worker.
        id: WorkerId,
        /// Its new process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
    },
    /// No process could be started.
    SpawnFailed {
        /// The worker.
        id: WorkerId,
        /// What the system said.
        reason: String,
        /// When it is tried again, if it is.
        retry_in: Option<Duration>,
    },
    /// A worker is ready.
    Ready {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
    },
    /// A process ended.
    Died {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
        /// How it ended.
        exit: Exit,
        /// When another process is started in its place, if one is; zero when there is one already.
        restart_in: Option<Duration>,
    },
    /// A process is sent `SIGKILL`.
    Killed {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
        /// Why.
        reason: KillReason,
    },
    /// The workers of a group die too fast; said once until the group has calmed down.
    TooFast {
        /// The name of the group.
        group: String,
    },
    /// A new generation is started.
    Reloading {
        /// Its number.
        generation: u32,
    },
    /// A new generation serves.
    Reloaded {
        /// Its number.
        generation: u32,
    },
    /// A new generation failed, and the one before goes on.
    RolledBack {
        /// The number of the one that failed.
        generation: u32,
        /// Why.
        reason: String,
    },
    /// No new generation was started.
    ReloadRefused {
        /// Why.
        reason: String,
    },
    /// A new version of the program is tried, to take this one's place.
    Upgrading,
    /// The new version has taken over: its generation serves.
    Upgraded {
        /// The number of the generation.
        generation: u32,
    },
    /// The new version was not taken, and everything goes on as before.
    UpgradeRefused {
        /// Why.
        reason: String,
    },
    /// The new version is the master, but its workers failed: those before them go on.
    UpgradeRolledBack {
        /// The number of the generation that failed.
        generation: u32,
        /// Why.
        reason: String,
    },
    /// A group is to have another number of workers.
    Resized {
        /// The name of the group.
        group: String,
        /// How many.
        size: u32,
    },
    /// The pool stops because of this, and will end with [`Outcome::Failed`](super::Outcome::Failed).
    Failing {
        /// What failed.
        reason: String,
    },
}

/// Why the pool kills a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KillReason {
    /// It took longer than this to become ready.
    NotReady(Duration),
    /// It broke the protocol in this way.
    Violation(String),
    /// It was told to end and was still there at the stop deadline.
    StopDeadline,
    /// The pool was told to stop at once.
    StopNow,
}

impl fmt::Display for KillReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(timeout) => write!(f, "not ready within {timeout:?}"),
            Self::Violation(reason) => write!(f, "broke the protocol: {reason}"),
            Self::StopDeadline => f.write_str("did not stop in time"),
            Self::StopNow => f.write_str("stopped at once"),
        }
    }
}
