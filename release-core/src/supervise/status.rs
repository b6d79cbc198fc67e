//! What the pool tells about its workers.

use std::fmt;
use std::time::Duration;

use super::WorkerId;

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
