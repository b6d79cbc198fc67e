//! What the pool tells the log, and why it kills.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Excess, Hung, State, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Something that the log should say, and that [`Master::observe`](crate::Master::observe) sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// The master begins: next it starts its workers. The pool itself does not say so.
    Starting,
    /// Every worker has been ready: the start has succeeded. The pool itself does not say so.
    AllReady,
    /// Somebody asks for the stop; a signal that asks after that makes it one at once. The pool itself
    /// does not say so.
    Stopping {
        /// Who asks.
        cause: StopCause,
    },
    /// No worker is left and the master ends. The pool itself does not say so.
    Finished {
        /// How it went.
        outcome: Outcome,
    },
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
    /// A process needs more time for its start or its end, and gets it.
    Extended {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
        /// How much it has from now on.
        time: Duration,
    },
    /// A process ends of itself.
    Stops {
        /// The worker.
        id: WorkerId,
        /// The process.
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
        exit: ExitStatus,
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
    /// A process could not be killed, and is left behind.
    LeftBehind {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
        /// What the system said.
        reason: String,
    },
    /// A process is over a limit of its group's [`LifeLimits`](super::LifeLimits), and another one is
    /// to take its place.
    OverLimit {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// The generation of the process.
        generation: u32,
        /// Which limit.
        excess: Excess,
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

/// Who asks a master to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopCause {
    /// The signal TERM.
    Terminate,
    /// The signal INT.
    Interrupt,
    /// The signal QUIT: at once.
    Quit,
    /// The terminal of a service in the foreground has gone.
    Terminal,
    /// [`MasterHandle::stop`](crate::MasterHandle::stop).
    Program,
}

/// Why the pool kills a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KillReason {
    /// It took longer than this to become ready.
    NotReady(Duration),
    /// It broke the protocol in this way.
    Violation(String),
    /// It did not get on with its work.
    Hung(Hung),
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
            Self::Hung(how) => write!(f, "hung: {how}"),
            Self::StopDeadline => f.write_str("did not stop in time"),
            Self::StopNow => f.write_str("stopped at once"),
        }
    }
}

/// A worker as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus<'a> {
    /// The worker.
    pub id: WorkerId,
    /// The name of its group.
    pub group: &'a str,
    /// Its process, if it has one.
    pub pid: Option<i32>,
    /// The generation of this process, or of the next one.
    pub generation: u32,
    /// What it is doing.
    pub state: State,
    /// How many processes it has had before the present or latest one.
    pub restarts: u32,
    /// For how long it has been in this state.
    pub since: Duration,
    /// How many earlier processes are still finishing what they have in hand.
    pub draining: usize,
    /// What its process says of itself in words, if it does.
    pub status_text: Option<&'a str>,
}

/// How the pool ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was stopped, and every worker went by itself.
    Stopped,
    /// It was stopped, and workers had to be killed.
    Killed {
        /// How many.
        workers: usize,
    },
    /// Something failed, or the workers did.
    Failed {
        /// What, in words for the log.
        reason: String,
    },
}
