//! What the pool is told and what it asks for.

use std::fmt;
use std::time::Duration;

use super::Exit;

/// A worker of the pool: 0, 1, 2... in the order of the groups. It outlives the worker's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happened.
///
/// The process id says which of the worker's processes is meant: news of an earlier one or of an
/// unknown worker, and news that comes twice, is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The pool is to start. Only the first one counts.
    Start,
    /// The answer to [`Action::Spawn`]: a process was started.
    Spawned {
        /// The worker.
        id: WorkerId,
        /// Its new process.
        pid: i32,
    },
    /// The answer to [`Action::Spawn`]: no process could be started.
    SpawnFailed {
        /// The worker.
        id: WorkerId,
        /// What the system said.
        reason: String,
    },
    /// A worker says that it is ready.
    Ready {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
    },
    /// A process ended and was reaped.
    Exited {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// A worker broke the protocol; it is killed and started again.
    Violation {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// What it did.
        reason: String,
    },
    /// The pool is to stop: workers are asked to, and killed at the stop deadline.
    Stop,
    /// The pool is to stop at once: workers are killed.
    StopNow,
    /// Something beside the workers failed: the pool stops as with [`Event::Stop`], and has failed.
    Fail {
        /// What failed.
        reason: String,
    },
    /// Time has passed, nothing else happened.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Start a process for this worker, and answer with exactly one [`Event::Spawned`] or
    /// [`Event::SpawnFailed`], also when other actions came to be in between.
    Spawn {
        /// The worker.
        id: WorkerId,
    },
    /// Send a signal to a process that was started and has not been reaped as far as the pool knows.
    Signal {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// What it is to do.
        signal: Signal,
    },
    /// Something worth a line in the log.
    Report(Report),
    /// Every worker has been ready: the initial start succeeded. Comes once at most.
    AllReady,
    /// No process is left and none will be started. Comes once, last.
    Done(Outcome),
}

/// How a process is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Signal {
    /// Finish and exit: `SIGTERM`.
    Terminate,
    /// `SIGKILL`.
    Kill,
}

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
    },
    /// A process ended.
    Died {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// How it ended.
        exit: Exit,
        /// When the worker is started again, if it is.
        restart_in: Option<Duration>,
    },
    /// A process is sent `SIGKILL`.
    Killed {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// Why.
        reason: KillReason,
    },
    /// The workers of a group die too fast; said once until the group has calmed down.
    TooFast {
        /// The name of the group.
        group: String,
    },
    /// The pool stops because of this, and will end with [`Outcome::Failed`].
    Failing {
        /// What failed.
        reason: String,
    },
}

/// Why the pool kills a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillReason {
    /// It took longer than this to become ready.
    NotReady(Duration),
    /// It broke the protocol in this way.
    Violation(String),
    /// It was asked to stop and was still there at the stop deadline.
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
