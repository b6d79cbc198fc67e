//! The scripts that simulated processes live by.

use std::time::Duration;

use crate::supervise::{Hung, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// A process that is about to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The worker.
    pub id: WorkerId,
    /// The generation of the process.
    pub generation: u32,
    /// How many processes the world has had before, whoever's they were.
    pub before: u32,
}

/// How a process behaves.
#[derive(Clone, Debug)]
pub struct Life {
    pub(super) starts: bool,
    pub(super) is_short: bool,
    pub(super) ready: Option<Duration>,
    pub(super) death: Option<(Duration, ExitStatus)>,
    pub(super) stop: Option<Duration>,
    pub(super) hang: Option<(Duration, Hung)>,
}

impl Life {
    /// It says ready after 50 ms, lives, and ends 50 ms after it was told to.
    #[must_use]
    pub fn good() -> Self {
        let moment = Duration::from_millis(50);
        let (ready, stop) = (Some(moment), Some(moment));
        Self { starts: true, is_short: false, ready, death: None, stop, hang: None }
    }

    /// The system refuses to start it.
    #[must_use]
    pub fn impossible() -> Self {
        Self { starts: false, ..Self::good() }
    }

    /// The system is too short of descriptors, processes or memory to start it.
    #[must_use]
    pub fn scarce() -> Self {
        Self { is_short: true, ..Self::impossible() }
    }

    /// It says ready so long after its start.
    #[must_use]
    pub fn ready_after(mut self, time: Duration) -> Self {
        self.ready = Some(time);
        self
    }

    /// It never says that it is ready.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.ready = None;
        self
    }

    /// It ends so long after its start, whatever it is told.
    #[must_use]
    pub fn dies_after(mut self, time: Duration, exit: ExitStatus) -> Self {
        self.death = Some((time, exit));
        self
    }

    /// It is found to hang so long after its start.
    #[must_use]
    pub fn hangs_after(mut self, time: Duration, how: Hung) -> Self {
        self.hang = Some((time, how));
        self
    }

    /// It ends so long after it was told to.
    #[must_use]
    pub fn stops_after(mut self, time: Duration) -> Self {
        self.stop = Some(time);
        self
    }

    /// It does not listen when it is told to stop.
    #[must_use]
    pub fn never_stops(mut self) -> Self {
        self.stop = None;
        self
    }
}
