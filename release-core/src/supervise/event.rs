//! What the pool is told and what it asks for.

use std::time::Duration;

use super::{Hung, Outcome, Report, Usage, WorkerId};
use crate::sys::exit_status::ExitStatus;

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
        /// Whether the system is short of what it may have again soon, such as descriptors, processes
        /// or memory: a change waits for it.
        is_short: bool,
    },
    /// A worker says that it is ready.
    Ready {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
    },
    /// A worker needs more time from now on for its start, or for its end after it was told to. It
    /// never gets less than it had, nor more than ten times that in all.
    Extend {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// How much it needs.
        time: Duration,
    },
    /// A worker ends of itself. It has as long as one that was told to; if its exit status is 0 then,
    /// it does not count among the deaths that come too fast.
    Stops {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
    },
    /// A worker says in words how it is.
    Status {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// The words.
        text: String,
    },
    /// A process ended and was reaped.
    Exited {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// How it ended.
        exit: ExitStatus,
    },
    /// The answer to [`Action::Signal`], or found out before: a process cannot be ended. It is waited
    /// for no longer; a start, a reload or a stop that it takes part in has failed.
    Unended {
        /// The worker.
        id: WorkerId,
        /// The process.
        pid: i32,
        /// What the system said.
        reason: String,
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
    /// A worker does not get on with its work; it is killed and started again, if it is at work: one
    /// that starts or stops has another deadline.
    Hung {
        /// The worker.
        id: WorkerId,
        /// Its process.
        pid: i32,
        /// What shows it.
        how: Hung,
    },
    /// What processes have used, for their groups' [`LifeLimits`](super::LifeLimits).
    Measured(Vec<Usage>),
    /// Connections still wait for these processes to accept them. Of those that get no new ones, as they
    /// are about to be told to stop, each has the time for it anew, up to ten times that.
    Backlog(Vec<(WorkerId, i32)>),
    /// The pool is to stop: workers are asked to, and killed at the stop deadline.
    Stop,
    /// The pool is to stop at once: workers are killed.
    StopNow,
    /// The pool is to change; [`Action::Answer`] with this request says how that ended.
    Change {
        /// Who asks: a number that no other change has.
        request: RequestId,
        /// What is to change.
        change: Operation,
    },
    /// The answer to [`Action::Prepare`]: a new generation may be started, or not for this reason.
    ///
    /// The configuration of the new generation wants this many workers in each group, in the order given
    /// to [`Pool::new`](super::Pool::new); `None`, or no entry, when it says nothing. A number that
    /// differs from the one that it wanted before is in force when the new generation serves.
    Prepared(Result<Vec<Option<u32>>, String>),
    /// The answer to [`Action::TryUpgrade`]: the new version can take over, or not for this reason.
    Tried(Result<(), String>),
    /// The answer to [`Action::HandOver`], if there is one: nothing was handed over, for this reason.
    NotHandedOver {
        /// Why.
        reason: String,
    },
    /// Somebody who asked for the upgrade before the new version took over still waits for its end.
    Rejoin {
        /// Who asks: a number that no change has.
        request: RequestId,
    },
    /// A task of the master's own has failed, which ends the pool like [`Event::Fail`]; but while the
    /// workers of another version of the program are being started, that version has failed, and the
    /// workers before it go on.
    TaskFailed {
        /// Why.
        reason: String,
    },
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
pub struct RequestId(pub u64);

/// A change of what the pool is to be. One that fails leaves the pool as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Every worker gets a new process, of a new generation. Those that come while one is under way
    /// are one more together, which follows.
    Reload,
    /// Another version of the program becomes the master, then every worker gets a process of it.
    /// One at a time, with nothing else under way; those that come before the new version has taken
    /// over are the same one.
    Upgrade,
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
    /// An upgrade begins: find out whether the new version can take over, and answer with exactly
    /// one [`Event::Tried`].
    TryUpgrade,
    /// Nothing is under way: become the new version, or answer with one [`Event::NotHandedOver`].
    /// Until then nothing is started.
    HandOver,
    /// A change has been made, or not for this reason. Comes once for each [`Event::Change`].
    Answer {
        /// Who asked for it.
        request: RequestId,
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
