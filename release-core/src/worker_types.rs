//! Types shared by the pool, the worker's process and the worker itself, which are independent of
//! each other.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Worker id: 0, 1, 2... in the order of the groups. It is stable across the worker's processes.
///
/// # Examples
///
/// ```
/// use release_core::supervise::WorkerId;
///
/// assert_eq!(WorkerId(3).to_string(), "3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of a worker.
///
/// # Examples
///
/// ```
/// use release_core::supervise::State;
///
/// fn has_process(state: State) -> bool {
///     !matches!(state, State::Waiting | State::Gone)
/// }
/// # assert!(has_process(State::Ready));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The process was started and is not ready yet.
    Starting,
    /// The worker is ready and at work.
    Ready,
    /// The process was told to stop, or killed, and has not exited yet.
    Stopping,
    /// The worker has no process; one will be started after the back-off.
    Waiting,
    /// The worker has no process and will not get one.
    Gone,
}

impl State {
    /// Returns the name of the state, in lower case.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::State;
    ///
    /// assert_eq!(State::Starting.as_str(), "starting");
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The sign that a worker hangs.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::Hung;
///
/// let sign = Hung::Silent(Duration::from_secs(5));
/// assert_eq!(sign.to_string(), "no answer to the heartbeat for 5.0s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hung {
    /// The worker has not answered its master for this long: its executor is blocked, or it is
    /// stopped.
    Silent(Duration),
    /// A unit of its work has been unfinished for this long.
    Stuck(Duration),
    /// The worker itself reports it.
    Admitted,
    /// A job of [`Jobs`](crate::jobs::Jobs) has reached its time limit, of this length, in the worker. The
    /// worker is replaced at once, whatever its [`RestartPolicy`](crate::supervise::RestartPolicy).
    Job(Duration),
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "no answer to the heartbeat for {time:.1?}"),
            Self::Stuck(age) => write!(f, "a unit of work was not finished after {age:.1?}"),
            Self::Admitted => f.write_str("it says so itself"),
            Self::Job(time) => write!(f, "a job was not done after {time:.1?}"),
        }
    }
}
