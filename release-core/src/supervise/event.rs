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
    /// The pool is to change; [`Action::Answer`] with this ticket says how that ended.
    Change {
        /// Who asks: a number that no other change has.
        ticket: Ticket,
        /// What is to change.
        change: Change,
    },
    /// The answer to [`Action::Prepare`]: a new generation may be started, or not for this reason.
    Prepared(Result<(), String>),
    /// Something beside the workers failed: the pool stops as with [`Event::Stop`], and has failed.
    Fail {
        /// What failed.
        reason: String,
    },
    /// Time has passed, nothing else happened.
    Tick,
}

/// Who asked for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct Ticket(pub u64);

/// A change of what the pool is to be. One that fails leaves the pool as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Every worker gets a new process, of a new generation. Those that come while one is under way
    /// are one more together, which follows.
    Reload,
    /// A group is to have so many workers. It replaces a change of the group's size that is under
    /// way, which has then failed.
    Resize {
        /// The name of the group.
        group: String,
        /// How many.
        size: u32,
    },
    /// One worker gets a new process, of the generation that it is to run.
    Restart {
        /// The worker.
        id: WorkerId,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Start a process for this worker, and answer with exactly one [`Event::Spawned`] or
    /// [`Event::SpawnFailed`], also when other actions came to be in between.
    ///
    /// A worker has no second one of these before the first is answered.
    Spawn {
        /// The worker.
        id: WorkerId,
        /// The generation that the process is of.
        generation: u32,
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
    /// A reload begins: read the configuration of a new generation, and answer with exactly one
    /// [`Event::Prepared`].
    Prepare,
    /// A change has been made, or not for this reason. Comes once for each [`Event::Change`].
    Answer {
        /// Who asked for it.
        ticket: Ticket,
        /// How it ended.
        outcome: Result<(), String>,
    },
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
    /// A group is to have another number of workers.
    Resized {
        /// The name of the group.
        group: String,
        /// How many.
        size: u32,
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
