//! Reports of the pool: log lines, reasons of kills, status and outcome.

use std::fmt;
use std::time::Duration;

use super::{Excess, Hung, State, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Describes an event of the pool for the log and for [`Master::observe`](crate::Master::observe).
///
/// # Examples
///
/// ```
/// # use release_core::supervise::simulation::{Life, Simulation};
/// # use release_core::supervise::{Action, GroupSpec, Report, WorkerId};
/// # use std::time::Duration;
/// # let groups = vec![GroupSpec::new("web", 1)];
/// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
/// # world.run(Duration::from_secs(1));
/// let mut reports = world.history().iter().filter_map(|(_, action)| match action {
///     Action::Report(report) => Some(report),
///     _ => None,
/// });
/// assert_eq!(reports.next(), Some(&Report::Started { id: WorkerId(0), pid: 1, generation: 1 }));
/// assert_eq!(reports.next(), Some(&Report::Ready { id: WorkerId(0), pid: 1, generation: 1 }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// The master starts and is about to start its workers. Reported by the master, not by the
    /// pool.
    Starting,
    /// Every worker has been ready: the start succeeded. Reported by the master, not by the pool.
    AllReady,
    /// A stop was requested. Another signal after that stops the workers at once. Reported by the
    /// master, not by the pool.
    Stopping {
        /// Source of the request.
        cause: StopCause,
    },
    /// No worker is left and the master exits. Reported by the master, not by the pool.
    Finished {
        /// The outcome.
        outcome: Outcome,
    },
    /// A process was started.
    Started {
        /// Id of the worker.
        id: WorkerId,
        /// Process id of the new process.
        pid: i32,
        /// Generation of the process.
        generation: u32,
    },
    /// No process could be started.
    SpawnFailed {
        /// Id of the worker.
        id: WorkerId,
        /// Error of the system.
        reason: String,
        /// Time until the next attempt, if there is one.
        retry_in: Option<Duration>,
    },
    /// A worker is ready.
    Ready {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
    },
    /// A process was granted more time to start or to stop.
    Extended {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
        /// Remaining time, from now.
        time: Duration,
    },
    /// A process is stopping without being asked.
    WorkerStopping {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
    },
    /// A process exited.
    Died {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
        /// Exit status.
        exit: ExitStatus,
        /// Time until another process is started in its place, if any; zero if there is one
        /// already.
        restart_in: Option<Duration>,
    },
    /// A process is sent `SIGKILL`.
    Killed {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
        /// The reason.
        reason: KillReason,
    },
    /// A process could not be killed and is left behind.
    LeftBehind {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
        /// Error of the system.
        reason: String,
    },
    /// A process exceeds a limit of its group's [`LifeLimits`](super::LifeLimits) and will be replaced.
    OverLimit {
        /// Id of the worker.
        id: WorkerId,
        /// Process id.
        pid: i32,
        /// Generation of the process.
        generation: u32,
        /// The exceeded limit.
        excess: Excess,
    },
    /// The workers of a group exit too often. Reported once until the group has calmed down.
    TooFast {
        /// Name of the group.
        group: String,
    },
    /// A new generation is being started.
    Reloading {
        /// Number of the generation.
        generation: u32,
    },
    /// A new generation serves.
    Reloaded {
        /// Number of the generation.
        generation: u32,
    },
    /// A new generation failed. The previous one goes on.
    RolledBack {
        /// Number of the failed generation.
        generation: u32,
        /// The reason.
        reason: String,
    },
    /// No new generation was started.
    ReloadRefused {
        /// The reason.
        reason: String,
    },
    /// A new version of the program is being checked before it takes over.
    Upgrading,
    /// The new version has taken over and its generation serves.
    Upgraded {
        /// Number of the generation.
        generation: u32,
    },
    /// The new version was not used. The running version goes on.
    UpgradeRefused {
        /// The reason.
        reason: String,
    },
    /// The new version is the master, but its workers failed. The previous workers go on.
    UpgradeRolledBack {
        /// Number of the failed generation.
        generation: u32,
        /// The reason.
        reason: String,
    },
    /// The number of workers in a group was changed.
    Resized {
        /// Name of the group.
        group: String,
        /// Number of workers.
        size: u32,
    },
    /// The pool stops for this reason and will end with
    /// [`Outcome::Failed`](super::Outcome::Failed).
    Failing {
        /// The reason.
        reason: String,
    },
}

/// Source of a request to stop the master.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Report, StopCause};
///
/// /// Whether the report must be forwarded to the operator on duty.
/// fn is_manual_stop(report: &Report) -> bool {
///     matches!(report, Report::Stopping { cause: StopCause::Interrupt | StopCause::Terminal })
/// }
/// assert!(is_manual_stop(&Report::Stopping { cause: StopCause::Interrupt }));
/// assert!(!is_manual_stop(&Report::Starting));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopCause {
    /// `SIGTERM`.
    Terminate,
    /// `SIGINT`.
    Interrupt,
    /// `SIGQUIT`, which stops at once unless [`Master::signal`](crate::Master::signal) has set another
    /// action.
    Quit,
    /// Another signal, with the action [`SignalAction::Stop`](crate::SignalAction::Stop) or
    /// [`SignalAction::StopNow`](crate::SignalAction::StopNow).
    Signal,
    /// The terminal of a service in the foreground was closed.
    Terminal,
    /// A call of [`MasterHandle::stop`](crate::MasterHandle::stop).
    Program,
}

/// Reason of a kill.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::KillReason;
///
/// let reason = KillReason::NotReady(Duration::from_secs(30));
/// assert_eq!(reason.to_string(), "not ready within 30s");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillReason {
    /// The process was not ready within this time.
    NotReady(Duration),
    /// The process violated the protocol in this way.
    Violation(String),
    /// The process made no progress.
    Hung(Hung),
    /// The process was asked to stop and still ran at the stop deadline.
    StopDeadline,
    /// The pool was stopped at once.
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

/// Describes the present state of a worker. [`Pool::status`](super::Pool::status) returns one for
/// each worker.
///
/// # Examples
///
/// ```
/// # use release_core::supervise::simulation::{Life, Simulation};
/// # use release_core::supervise::{GroupSpec, State};
/// # use std::time::Duration;
/// # let groups = vec![GroupSpec::new("web", 1)];
/// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
/// # world.run(Duration::from_secs(1));
/// let workers = world.pool().status(world.now());
/// assert_eq!((workers[0].group, workers[0].state), ("web", State::Ready));
/// assert_eq!(workers[0].restarts, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus<'a> {
    /// Id of the worker.
    pub id: WorkerId,
    /// Name of its group.
    pub group: &'a str,
    /// Process id, if there is a process.
    pub pid: Option<i32>,
    /// Generation of the process, or of the next one.
    pub generation: u32,
    /// State of the worker.
    pub state: State,
    /// Number of restarts.
    pub restarts: u32,
    /// Time since the worker entered the state.
    pub since: Duration,
    /// Number of older processes of this worker that are still draining.
    pub draining: usize,
    /// Status text reported by the process, if any.
    pub status_text: Option<&'a str>,
}

/// Outcome of a pool.
///
/// # Examples
///
/// ```
/// # use release_core::supervise::simulation::{Life, Simulation};
/// # use release_core::supervise::{Action, Event, GroupSpec, Outcome};
/// # use std::time::Duration;
/// # let groups = vec![GroupSpec::new("web", 1)];
/// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
/// # world.run(Duration::from_secs(1));
/// world.tell(Event::Stop);
/// world.run(Duration::from_secs(10));
/// let last = world.history().last().map(|(_, action)| action);
/// assert_eq!(last, Some(&Action::Done(Outcome::Stopped)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The pool was stopped and every worker exited by itself.
    Stopped,
    /// The pool was stopped and workers had to be killed: at the stop deadline, at once, for a violation, or
    /// because a job reached its time limit.
    Killed {
        /// Number of processes that were killed since the stop began.
        workers: usize,
    },
    /// The workers failed, or something else did.
    Failed {
        /// The reason, as a text for the log.
        reason: String,
    },
}
