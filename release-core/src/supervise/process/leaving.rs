//! The time between the end of new work for a process and the word to stop.

use std::time::Duration;

use super::{MOST_TIMES, Process, Stage};
use crate::supervise::Moment;
use crate::supervise::policy::LONGEST;

impl Process {
    /// It is not wanted any more. One that was at work has this time for what it was given last.
    pub(in crate::supervise) fn leave(&mut self, time: Duration, now: Moment) {
        if let Some(pid) = self.pid().filter(|_| self.is_in_service()) {
            let until = if self.was_ready() { now + time } else { now };
            self.enter(Stage::Leaving { pid, until }, now);
        }
    }

    /// It has the time to leave anew, but not for ever.
    pub(in crate::supervise) fn linger(&mut self, time: Duration, now: Moment) {
        if let Stage::Leaving { until, .. } = &mut self.stage {
            let last = self.since + time.saturating_mul(MOST_TIMES).min(LONGEST);
            *until = last.min(now + time).max(*until);
        }
    }

    /// Whether it was to leave at that time, or before.
    pub(in crate::supervise) fn has_left(&self, at: Moment) -> bool {
        matches!(self.stage, Stage::Leaving { until, .. } if until <= at)
    }
}
