//! Input and output of the pool: events, operations and actions.

use std::time::Duration;

use super::{Hung, Outcome, Report, Usage, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Tells the pool that something happened.
///
/// The process id selects one process of the worker. An event about an earlier process or an
/// unknown worker is ignored, and so is a duplicate.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Action, Event, GroupSpec, Moment, Pool, WorkerId};
/// use std::time::Duration;
///
/// let mut pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
/// let mut actions = Vec::new();
/// pool.on(Event::Start, Moment::START, &mut actions);
/// pool.on(Event::Spawned { id: WorkerId(0), pid: 100 }, Moment::START, &mut actions);
///
/// // The worker has no process 99: nothing happens.
/// actions.clear();
/// pool.on(Event::Ready { id: WorkerId(0), pid: 99 }, Moment::START, &mut actions);
/// assert!(actions.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Starts the pool. Has an effect only once.
    Start,
    /// Answers [`Action::Spawn`]: a process was started.
    Spawned {
        /// Id of the worker.
        id: WorkerId,
        /// Process id of the new process.
        pid: i32,
    },
    /// Answers [`Action::Spawn`]: no process could be started.
    SpawnFailed {
        /// Id of the worker.
        id: WorkerId,
        /// Error of the system.
        reason: String,
        /// Whether the failure may pass soon because the system is short of descriptors, processes
        /// or memory. An operation in progress waits for that.
        is_short: bool,
    },
    /// A worker reported that it is ready.
    Ready {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
    },
    /// A worker requested more time to start, or to stop after it was asked to stop. The time
    /// counts from now. It never shortens the deadline, and the total is limited to ten times the
    /// configured time.
    Extend {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Time that the worker needs.
        time: Duration,
    },
    /// A worker reported that it is stopping without being asked. The stop deadline applies. If it
    /// exits with status 0, the exit does not count towards the [intensity
    /// limit](super::RestartPolicy::intensity).
    Stopping {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
    },
    /// A worker reported a status text.
    Status {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// The text.
        text: String,
    },
    /// A process exited and was reaped.
    Exited {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Exit status.
        exit: ExitStatus,
    },
    /// A process cannot be killed. Sent as the answer to [`Action::Signal`] or before it. The pool
    /// no longer waits for the process. A start, reload or stop that involves it has failed.
    KillFailed {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Error of the system.
        reason: String,
    },
    /// A worker violated the protocol. It is killed and restarted.
    Violation {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Description of the violation.
        reason: String,
    },
    /// A worker makes no progress. If it is ready, it is killed and restarted. While it starts or
    /// stops, another deadline applies.
    Hung {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Observed symptom.
        how: Hung,
    },
    /// Resource usage of processes, compared with the [`LifeLimits`](super::LifeLimits) of their
    /// groups.
    Measured(Vec<Usage>),
    /// Connections are queued for these processes. A process among them that no longer receives new
    /// connections gets more time before it is asked to stop, up to ten times the configured time.
    Backlog(Vec<(WorkerId, i32)>),
    /// The load of a group demands another size, see [`Workers::grow_to`](crate::Workers::grow_to). Has
    /// no effect if somebody has changed the size since then, or waits for a change.
    Load {
        /// Index of the group.
        group: usize,
        /// Size at the look at its load.
        from: u32,
        /// New size.
        to: u32,
    },
    /// Stops the pool in order: workers are asked to stop and killed at the stop deadline.
    Stop,
    /// Stops the pool at once: workers are killed.
    StopNow,
    /// Requests an operation. [`Action::Answer`] with the same request id reports the outcome.
    Change {
        /// Identifies the request. Must be unique.
        request: RequestId,
        /// The operation.
        change: Operation,
    },
    /// Answers [`Action::Prepare`]: a new generation may start, or must not for the given reason.
    ///
    /// The vector has the number of workers for each group, in the order given to
    /// [`Pool::new`](super::Pool::new). `None` or a missing entry leaves the size as it is. A
    /// number that differs from the previous configuration is applied once the new generation
    /// serves.
    Prepared(Result<Vec<Option<u32>>, String>),
    /// Answers [`Action::TryUpgrade`]: the new version can take over, or cannot for the given
    /// reason.
    Tried(Result<(), String>),
    /// Answers [`Action::HandOver`] if the new version did not take over.
    NotHandedOver {
        /// The reason.
        reason: String,
    },
    /// A caller that requested the upgrade from the previous version still waits for its outcome.
    Rejoin {
        /// Identifies the request. Must be unique.
        request: RequestId,
    },
    /// A task of the master failed. Usually it ends the pool like [`Event::Fail`]. While the
    /// workers of a new version of the program are started, only the new version has failed: it is
    /// rolled back and the previous workers go on.
    TaskFailed {
        /// The reason.
        reason: String,
    },
    /// A failure unrelated to the workers. The pool stops as with [`Event::Stop`], and its outcome
    /// is a failure.
    Fail {
        /// The reason.
        reason: String,
    },
    /// Only time has passed.
    Tick,
}

impl Event {
    /// Returns the worker that the event is about, if it is about one.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match *self {
            Self::Spawned { id, .. }
            | Self::SpawnFailed { id, .. }
            | Self::Ready { id, .. }
            | Self::Exited { id, .. }
            | Self::KillFailed { id, .. }
            | Self::Violation { id, .. }
            | Self::Hung { id, .. }
            | Self::Extend { id, .. }
            | Self::Stopping { id, .. }
            | Self::Status { id, .. } => Some(id),
            Self::Start
            | Self::Stop
            | Self::StopNow
            | Self::Change { .. }
            | Self::Prepared(_)
            | Self::Tried(_)
            | Self::NotHandedOver { .. }
            | Self::Rejoin { .. }
            | Self::Measured(_)
            | Self::Backlog(_)
            | Self::Load { .. }
            | Self::Fail { .. }
            | Self::TaskFailed { .. }
            | Self::Tick => None,
        }
    }
}

/// Identifies a requested operation.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Event, Operation, RequestId};
///
/// let event = Event::Change { request: RequestId(7), change: Operation::Reload };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct RequestId(pub u64);

/// Changes the workers of a running pool. An operation that fails leaves the pool as it was.
///
/// # Examples
///
/// ```
/// # use release_core::supervise::simulation::{Life, Simulation};
/// # use release_core::supervise::{GroupSpec, Operation};
/// # use std::time::Duration;
/// # let groups = vec![GroupSpec::new("web", 2)];
/// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
/// # world.run(Duration::from_secs(1));
/// let request = world.change(Operation::Resize { group: "web".to_owned(), size: 3 });
/// world.run(Duration::from_secs(1));
/// assert_eq!(world.answer(request), Some(&Ok(())));
/// assert_eq!(world.pool().size(0), Some(3));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Starts a new generation and replaces every worker. Requests that arrive while a reload runs
    /// share one more reload, which follows.
    Reload,
    /// Lets a new version of the program become the master and then replaces every worker. Runs
    /// alone. Requests that arrive before the new version has taken over share this upgrade.
    Upgrade,
    /// Sets the number of workers in a group. Supersedes a resize of the group that is still
    /// running, which fails.
    Resize {
        /// Name of the group.
        group: String,
        /// Number of workers.
        size: u32,
    },
    /// Replaces one worker with a new process of its current generation.
    Restart {
        /// Id of the worker.
        id: WorkerId,
    },
}

/// Tells the caller of [`Pool::on`](super::Pool::on) to do something. Actions are executed in
/// order.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Action, Event, GroupSpec, Moment, Pool, WorkerId};
/// use std::time::Duration;
///
/// let mut pool = Pool::new(vec![GroupSpec::new("web", 2)], Duration::from_secs(10), 42);
/// let mut actions = Vec::new();
/// pool.on(Event::Start, Moment::START, &mut actions);
/// for action in actions {
///     match action {
///         Action::Spawn { id, generation } => assert!(id <= WorkerId(1) && generation == 1),
///         other => panic!("unexpected: {other:?}"),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Start a process for this worker. Answer with exactly one [`Event::Spawned`] or
    /// [`Event::SpawnFailed`]; other actions may be requested in between.
    ///
    /// A worker never has two unanswered requests.
    Spawn {
        /// Id of the worker.
        id: WorkerId,
        /// Generation of the process.
        generation: u32,
    },
    /// Send a signal to a process that, as far as the pool knows, has not been reaped.
    Signal {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// The signal.
        signal: Signal,
    },
    /// Log this report.
    Report(Report),
    /// A reload begins: read the configuration of the new generation. Answer with exactly one
    /// [`Event::Prepared`].
    Prepare,
    /// An upgrade begins: check whether the new version can take over. Answer with exactly one
    /// [`Event::Tried`].
    TryUpgrade,
    /// Nothing is in progress: let the new version take over, or answer with one
    /// [`Event::NotHandedOver`]. Until then no process is started.
    HandOver,
    /// An operation has ended. Follows exactly once after each [`Event::Change`].
    Answer {
        /// Identifies the request.
        request: RequestId,
        /// Success, or the reason of the failure.
        outcome: Result<(), String>,
    },
    /// Every worker has been ready: the initial start succeeded. Occurs at most once.
    AllReady,
    /// No process is left and none will be started. Occurs once, as the last action.
    Done(Outcome),
}

/// Signal for a worker's process.
///
/// # Examples
///
/// ```
/// # use release_core::supervise::simulation::{Life, Simulation};
/// # use release_core::supervise::{Action, Event, GroupSpec, Signal};
/// # use std::time::Duration;
/// # let groups = vec![GroupSpec::new("web", 1)];
/// # let script = |_| Life::good().never_stops();
/// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
/// # world.run(Duration::from_secs(1));
/// // A worker that ignores the request to stop is killed at the stop deadline.
/// world.tell(Event::Stop);
/// world.run(Duration::from_secs(10));
/// let signals = world.history().iter().filter_map(|(_, action)| match action {
///     Action::Signal { signal, .. } => Some(*signal),
///     _ => None,
/// });
/// assert_eq!(signals.collect::<Vec<_>>(), [Signal::Terminate, Signal::Kill]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// `SIGTERM`: finish and exit.
    Terminate,
    /// `SIGKILL`.
    Kill,
}
