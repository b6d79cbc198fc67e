//! What a process says of itself, beside that it is ready.

use std::time::{Duration, Instant};

use super::{MOST_TIMES, Process, Stage};
use crate::supervise::policy::LONGEST;
use crate::supervise::{Action, GroupSpec, Ready, Report, WorkerId};

impl Process {
    /// Gives it more time for its start or its end; until when, if that is later than it was.
    pub(in crate::supervise) fn extend(
        &mut self,
        id: WorkerId,
        time: Duration,
        spec: &GroupSpec,
        stop_deadline: Duration,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Option<Instant> {
        let (pid, until, given) = match &mut self.stage {
            Stage::Starting { pid, until } if spec.ready == Ready::Message => {
                (*pid, until, spec.restart.ready_timeout)
            }
            Stage::Stopping { pid, kill_at } => (*pid, kill_at, stop_deadline),
            _ => return None,
        };
        let last = self.since + given.saturating_mul(MOST_TIMES).min(LONGEST);
        let wanted = last.min(now + time.min(LONGEST));
        if wanted <= *until {
            return None;
        }
        *until = wanted;
        let (generation, time) = (self.generation, wanted - now);
        actions.push(Action::Report(Report::Extended { id, pid, generation, time }));
        Some(wanted)
    }

    /// It ends of itself: nobody has to tell it to.
    pub(in crate::supervise) fn stops(
        &mut self,
        id: WorkerId,
        kill_at: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(pid) = self.pid().filter(|_| self.is_alive() && !self.is_stopping()) {
            let generation = self.generation;
            actions.push(Action::Report(Report::Stops { id, pid, generation }));
            self.enter(Stage::Stopping { pid, kill_at }, now);
        }
    }

    /// Whether it has been about to end.
    pub(in crate::supervise) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }
}
