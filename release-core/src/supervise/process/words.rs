//! What a process says of itself, beside that it is ready.

use std::time::Duration;

use super::{MOST_TIMES, Process, Stage};
use crate::supervise::Moment;
use crate::supervise::policy::LONGEST;
use crate::supervise::turn::Turn;
use crate::supervise::{GroupSpec, Ready, Report, WorkerId};

impl Process {
    /// Gives it more time for its start or its end; until when, if that is later than it was.
    pub(in crate::supervise) fn extend(
        &mut self,
        id: WorkerId,
        time: Duration,
        spec: &GroupSpec,
        stop_deadline: Duration,
        turn: &mut Turn<'_>,
    ) -> Option<Moment> {
        let (pid, until, given) = match &mut self.stage {
            Stage::Starting { pid, until } if spec.ready == Ready::Message => {
                (*pid, until, spec.restart.ready_timeout)
            }
            Stage::Stopping { pid, kill_at } => (*pid, kill_at, stop_deadline),
            _ => return None,
        };
        let last = self.since + given.saturating_mul(MOST_TIMES).min(LONGEST);
        let wanted = last.min(turn.now + time.min(LONGEST));
        if wanted <= *until {
            return None;
        }
        *until = wanted;
        let (generation, time) = (self.generation, wanted - turn.now);
        turn.report(Report::Extended { id, pid, generation, time });
        Some(wanted)
    }

    /// It ends of itself: nobody has to tell it to.
    pub(in crate::supervise) fn stops(
        &mut self,
        id: WorkerId,
        kill_at: Moment,
        turn: &mut Turn<'_>,
    ) {
        if let Some(pid) = self.pid().filter(|_| self.is_alive() && !self.is_stopping()) {
            let generation = self.generation;
            turn.report(Report::Stops { id, pid, generation });
            self.enter(Stage::Stopping { pid, kill_at }, turn.now);
        }
    }

    /// Whether it has been about to end.
    pub(in crate::supervise) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }
}
