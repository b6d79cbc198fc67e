//! One process of a worker, from the wish for it to its end.

use std::time::Duration;

use super::life::{Excess, Own, Usage};
use super::policy::LONGEST;
use super::turn::Turn;
use super::{Action, GroupSpec, KillReason, Moment, Ready, Report, Signal, State, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// How many times as long as it is given a process may take that needs more time, whatever it says:
/// a start or a stop comes to its end.
const MOST_TIMES: u32 = 10;

/// A process, or the wish for one.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// Whether it has been ready for the canary time.
    pub(super) is_proven: bool,
    /// Whether somebody asked for another process in its place, of the same generation.
    pub(super) needs_replacement: bool,
    /// Since when it is over one of its limits, and another process is to take its place.
    pub(super) over_limit_since: Option<Moment>,
    /// How it is, in its own words.
    pub(super) status_text: Option<String>,
    pub(super) limits: Own,
    /// When what it does, as the status shows it, began.
    pub(super) since: Moment,
    pub(super) ready_at: Option<Moment>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// It was asked for; the answer is on its way.
    Spawning,
    /// Not ready yet.
    Starting { pid: i32, until: Moment },
    /// At work, and in its canary time.
    Trial { pid: i32, until: Moment },
    /// At work.
    Ready { pid: i32 },
    /// Not wanted any more; it gets no new work, and is told to end after that.
    Leaving { pid: i32, until: Moment },
    /// Asked to end.
    Stopping { pid: i32, kill_at: Moment },
    /// Killed, but not reaped yet.
    Killed { pid: i32, reason: KillReason },
}

impl Process {
    pub(super) fn wished(generation: u32, now: Moment) -> Self {
        Self {
            generation,
            stage: Stage::Spawning,
            is_proven: false,
            needs_replacement: false,
            over_limit_since: None,
            status_text: None,
            limits: Own::default(),
            since: now,
            ready_at: None,
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        match self.stage {
            Stage::Spawning => None,
            Stage::Starting { pid, .. }
            | Stage::Trial { pid, .. }
            | Stage::Ready { pid }
            | Stage::Leaving { pid, .. }
            | Stage::Stopping { pid, .. }
            | Stage::Killed { pid, .. } => Some(pid),
        }
    }

    pub(super) fn state(&self) -> State {
        match self.stage {
            Stage::Spawning | Stage::Starting { .. } => State::Starting,
            Stage::Trial { .. } | Stage::Ready { .. } => State::Ready,
            Stage::Leaving { .. } | Stage::Stopping { .. } | Stage::Killed { .. } => {
                State::Stopping
            }
        }
    }

    pub(super) fn since(&self) -> Moment {
        self.since
    }

    /// Whether it runs and was not told to end.
    pub(super) fn is_in_service(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Trial { .. } | Stage::Ready { .. })
    }

    /// Whether it runs and was not killed.
    pub(super) fn is_alive(&self) -> bool {
        self.is_in_service() || matches!(self.stage, Stage::Leaving { .. } | Stage::Stopping { .. })
    }

    /// When it is killed, if it was told to end and has not.
    pub(super) fn kill_at(&self) -> Option<Moment> {
        match self.stage {
            Stage::Stopping { kill_at, .. } => Some(kill_at),
            _ => None,
        }
    }

    /// Whether it was told to end and has had its time to.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        self.kill_at().is_some_and(|at| at <= now)
    }

    pub(super) fn was_ready(&self) -> bool {
        self.ready_at.is_some()
    }

    /// Whether it does the job of the one before it: when it is proven, or as soon as it is ready when
    /// others of its generation have stood the test.
    pub(super) fn may_take_over(&self, is_tested: bool) -> bool {
        self.is_in_service() && (self.is_proven || (is_tested && self.was_ready()))
    }

    /// For how long it was at work, if it ever was.
    pub(super) fn life(&self, now: Moment) -> Option<Duration> {
        self.ready_at.map(|ready_at| now - ready_at)
    }

    /// When the passing of time alone changes something, unless the pool stops.
    pub(super) fn timer(&self) -> Option<Moment> {
        match self.stage {
            Stage::Starting { until, .. }
            | Stage::Trial { until, .. }
            | Stage::Leaving { until, .. } => Some(until),
            Stage::Stopping { kill_at, .. } => Some(kill_at),
            Stage::Ready { .. } if self.over_limit_since.is_none() => self.limits.expires(),
            Stage::Spawning | Stage::Ready { .. } | Stage::Killed { .. } => None,
        }
    }

    fn enter(&mut self, stage: Stage, now: Moment) {
        self.stage = stage;
        self.since = now;
    }

    pub(super) fn spawned(
        &mut self,
        id: WorkerId,
        pid: i32,
        spec: &GroupSpec,
        turn: &mut Turn<'_>,
    ) {
        self.limits = spec.life.draw(&mut turn.jitter);
        let time = match spec.ready {
            Ready::After(time) => time.min(LONGEST),
            Ready::Message | Ready::AtOnce => spec.restart.ready_timeout,
        };
        let until = turn.now + time;
        self.enter(Stage::Starting { pid, until }, turn.now);
        let generation = self.generation;
        turn.report(Report::Started { id, pid, generation });
        if spec.ready == Ready::AtOnce {
            self.ready(id, spec, turn);
        }
    }

    pub(super) fn ready(&mut self, id: WorkerId, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let Some(pid) = self.pid() else { return };
        self.ready_at = Some(turn.now);
        self.limits.begin(turn.now);
        let canary = match spec.ready {
            // It has lived for that time already.
            Ready::After(time) => spec.reload.canary.saturating_sub(time),
            Ready::Message | Ready::AtOnce => spec.reload.canary,
        };
        self.enter(Stage::Trial { pid, until: turn.now + canary }, turn.now);
        let generation = self.generation;
        turn.report(Report::Ready { id, pid, generation });
    }

    /// Does what time alone does to a process that was not told to end.
    pub(super) fn age(&mut self, id: WorkerId, spec: &GroupSpec, turn: &mut Turn<'_>) {
        match self.stage {
            Stage::Starting { until, .. }
                if until <= turn.now && matches!(spec.ready, Ready::After(_)) =>
            {
                self.ready(id, spec, turn);
            }
            Stage::Starting { until, .. } if until <= turn.now => {
                let reason = KillReason::NotReady(until - self.since);
                self.kill(id, reason, turn);
            }
            Stage::Trial { pid, until } if until <= turn.now => {
                self.is_proven = true;
                self.stage = Stage::Ready { pid };
            }
            Stage::Spawning
            | Stage::Starting { .. }
            | Stage::Trial { .. }
            | Stage::Ready { .. }
            | Stage::Leaving { .. }
            | Stage::Stopping { .. }
            | Stage::Killed { .. } => {}
        }
        self.check_limits(id, self.limits.at(turn.now), turn);
    }

    /// Compares what it has used with its limits.
    pub(super) fn measure(&mut self, id: WorkerId, usage: &Usage, turn: &mut Turn<'_>) {
        self.check_limits(id, self.limits.after(usage), turn);
    }

    /// One that is not proven yet has its time to be: somebody may wait to hear how it does.
    fn check_limits(&mut self, id: WorkerId, excess: Option<Excess>, turn: &mut Turn<'_>) {
        if let (Some(excess), Stage::Ready { pid }, None) =
            (excess, &self.stage, self.over_limit_since)
        {
            let (pid, generation) = (*pid, self.generation);
            self.over_limit_since = Some(turn.now);
            turn.report(Report::OverLimit { id, pid, generation, excess });
        }
    }

    pub(super) fn terminate(&mut self, id: WorkerId, kill_at: Moment, turn: &mut Turn<'_>) {
        let Some(pid) = self.pid() else { return };
        let signal = Signal::Terminate;
        turn.act(Action::Signal { id, pid, signal });
        self.enter(Stage::Stopping { pid, kill_at }, turn.now);
    }

    pub(super) fn kill(&mut self, id: WorkerId, reason: KillReason, turn: &mut Turn<'_>) {
        let Some(pid) = self.pid() else { return };
        let (signal, generation, why) = (Signal::Kill, self.generation, reason.clone());
        turn.report(Report::Killed { id, pid, generation, reason: why });
        turn.act(Action::Signal { id, pid, signal });
        self.enter(Stage::Killed { pid, reason }, turn.now);
    }

    /// The cause of its death, for the one who asks why: not our `SIGKILL` but the reason for it.
    pub(super) fn cause(&self, exit: ExitStatus) -> String {
        match &self.stage {
            Stage::Killed { reason, .. } => format!("killed: {reason}"),
            _ => exit.to_string(),
        }
    }

    /// It is not wanted any more. One that was at work has this time for what it was given last.
    pub(super) fn leave(&mut self, time: Duration, now: Moment) {
        if let Some(pid) = self.pid().filter(|_| self.is_in_service()) {
            let until = if self.was_ready() { now + time } else { now };
            self.enter(Stage::Leaving { pid, until }, now);
        }
    }

    /// It has the time to leave anew, but not for ever.
    pub(super) fn linger(&mut self, time: Duration, now: Moment) {
        if let Stage::Leaving { until, .. } = &mut self.stage {
            let last = self.since + time.saturating_mul(MOST_TIMES).min(LONGEST);
            *until = last.min(now + time).max(*until);
        }
    }

    /// Whether it was to leave at that time, or before.
    pub(super) fn has_left(&self, at: Moment) -> bool {
        matches!(self.stage, Stage::Leaving { until, .. } if until <= at)
    }

    /// Gives it more time for its start or its end; until when, if that is later than it was.
    pub(super) fn extend(
        &mut self,
        time: Duration,
        spec: &GroupSpec,
        stop_deadline: Duration,
        now: Moment,
    ) -> Option<Moment> {
        let (until, given) = match &mut self.stage {
            Stage::Starting { until, .. } if spec.ready == Ready::Message => {
                (until, spec.restart.ready_timeout)
            }
            Stage::Stopping { kill_at, .. } => (kill_at, stop_deadline),
            _ => return None,
        };
        let last = self.since + given.saturating_mul(MOST_TIMES).min(LONGEST);
        let wanted = last.min(now + time.min(LONGEST));
        if wanted <= *until {
            return None;
        }
        *until = wanted;
        Some(wanted)
    }

    /// It ends of itself: nobody has to tell it to.
    pub(super) fn stops(&mut self, id: WorkerId, kill_at: Moment, turn: &mut Turn<'_>) {
        if let Some(pid) = self.pid().filter(|_| self.is_alive() && !self.is_stopping()) {
            let generation = self.generation;
            turn.report(Report::Stops { id, pid, generation });
            self.enter(Stage::Stopping { pid, kill_at }, turn.now);
        }
    }

    /// Whether it has been about to end.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }
}
