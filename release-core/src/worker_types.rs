//! What the pool, the worker's process and the worker itself have words for: they do not know each other.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A worker of the pool: 0, 1, 2... in the order of the groups. It outlives the worker's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Its process was started and is not ready yet.
    Starting,
    /// At work.
    Ready,
    /// Its process was told to end, or killed, and is not gone yet.
    Stopping,
    /// It has no process; one will be started when the back-off is over.
    Waiting,
    /// It has no process and will not get one.
    Gone,
}

impl State {
    /// The name, in lower case.
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

/// What shows that a worker does not get on with its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Hung {
    /// It has not answered its master for so long: its executor is blocked, or it is stopped.
    Silent(Duration),
    /// A unit of its work has not been finished for so long.
    Stuck(Duration),
    /// It says so itself.
    Admitted,
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => write!(f, "no answer to the heartbeat for {time:.1?}"),
            Self::Stuck(age) => write!(f, "a unit of work was not finished after {age:.1?}"),
            Self::Admitted => f.write_str("it says so itself"),
        }
    }
}
