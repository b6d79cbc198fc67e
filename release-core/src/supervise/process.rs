//! One process of a worker, from the request for it to its end.

use std::time::Duration;

use super::life::{Excess, ProcessLimits, Usage};
use super::policy::LONGEST;
use super::turn::Turn;
use super::{Action, GroupSpec, Hung, KillReason, Moment, Ready, Report, Signal, State, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Limits the extra time for a start or a stop to this multiple of the configured time, whatever
/// the process requests.
const MOST_TIMES: u32 = 10;

/// A process, or the request for one.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PoolProcess {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// Whether it has been ready for the canary time.
    pub(super) is_proven: bool,
    /// Whether a restart was requested, which replaces it with a process of the same generation.
    pub(super) needs_replacement: bool,
    /// Time since which it exceeds a limit.
    pub(super) over_limit_since: Option<Moment>,
    /// Status text that it reported.
    pub(super) status_text: Option<String>,
    pub(super) limits: ProcessLimits,
    /// When its present state began.
    pub(super) since: Moment,
    pub(super) ready_at: Option<Moment>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) enum Stage {
    /// Requested, not answered yet.
    Spawning,
    /// Not ready yet.
    Starting { pid: i32, until: Moment },
    /// Ready, in its canary time.
    Trial { pid: i32, until: Moment },
    /// Ready.
    Ready { pid: i32 },
    /// Not needed any more. Gets no new work and is asked to stop after that time.
    Leaving { pid: i32, until: Moment },
    /// Asked to stop.
    Stopping { pid: i32, kill_at: Moment },
    /// Killed, not reaped yet.
    Killed { pid: i32, reason: KillReason },
}

impl PoolProcess {
    pub(super) fn requested(generation: u32, now: Moment) -> Self {
        Self {
            generation,
            stage: Stage::Spawning,
            is_proven: false,
            needs_replacement: false,
            over_limit_since: None,
            status_text: None,
            limits: ProcessLimits::default(),
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

    /// Returns whether it runs and was not asked to stop.
    pub(super) fn is_in_service(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Trial { .. } | Stage::Ready { .. })
    }

    /// Returns whether it runs and was not killed.
    pub(super) fn is_alive(&self) -> bool {
        self.is_in_service() || matches!(self.stage, Stage::Leaving { .. } | Stage::Stopping { .. })
    }

    /// Returns the stop deadline of a process that was asked to stop.
    pub(super) fn kill_at(&self) -> Option<Moment> {
        match self.stage {
            Stage::Stopping { kill_at, .. } => Some(kill_at),
            _ => None,
        }
    }

    /// Returns whether its stop deadline has passed.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        self.kill_at().is_some_and(|at| at <= now)
    }

    pub(super) fn was_ready(&self) -> bool {
        self.ready_at.is_some()
    }

    /// Returns whether it may take over from the previous process: when it is proven, or as soon as
    /// it is ready if its generation has proven processes.
    pub(super) fn may_take_over(&self, is_tested: bool) -> bool {
        self.is_in_service() && (self.is_proven || (is_tested && self.was_ready()))
    }

    /// Returns the time since it became ready.
    pub(super) fn life(&self, now: Moment) -> Option<Duration> {
        self.ready_at.map(|ready_at| now - ready_at)
    }

    /// Returns when the next change by time alone is due, unless the pool stops.
    pub(super) fn timer(&self) -> Option<Moment> {
        match self.stage {
            Stage::Starting { until, .. }
            | Stage::Trial { until, .. }
            | Stage::Leaving { until, .. } => Some(until),
            Stage::Stopping { kill_at, .. } => Some(kill_at),
            Stage::Ready { .. } if self.over_limit_since.is_none() => self.limits.expires,
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
            // It has run for that time already.
            Ready::After(time) => spec.reload.canary.saturating_sub(time),
            Ready::Message | Ready::AtOnce => spec.reload.canary,
        };
        self.enter(Stage::Trial { pid, until: turn.now + canary }, turn.now);
        let generation = self.generation;
        turn.report(Report::Ready { id, pid, generation });
    }

    /// Applies changes by time alone to a process that was not asked to stop.
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

    /// Compares its usage with its limits.
    pub(super) fn measure(&mut self, id: WorkerId, usage: &Usage, turn: &mut Turn<'_>) {
        self.check_limits(id, self.limits.after(usage), turn);
    }

    /// Marks a proven process that exceeds a limit. Others are left alone: a caller may wait until
    /// they are proven.
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

    /// Returns the cause of its end for reports. After a `SIGKILL` of ours, this is the reason of
    /// the kill.
    pub(super) fn cause(&self, exit: ExitStatus) -> String {
        match &self.stage {
            Stage::Killed { reason, .. } => format!("killed: {reason}"),
            _ => exit.to_string(),
        }
    }

    /// Returns whether it was killed because a job had reached its time limit.
    pub(super) fn was_killed_for_a_job(&self) -> bool {
        matches!(self.stage, Stage::Killed { reason: KillReason::Hung(Hung::Job(_)), .. })
    }

    /// Begins its end. A process that was ready has this time for the work that it was given last.
    pub(super) fn leave(&mut self, time: Duration, now: Moment) {
        if let Some(pid) = self.pid().filter(|_| self.is_in_service()) {
            let until = if self.was_ready() { now + time } else { now };
            self.enter(Stage::Leaving { pid, until }, now);
        }
    }

    /// Restarts the time before it is asked to stop, within a limit.
    pub(super) fn extend_leaving(&mut self, time: Duration, now: Moment) {
        if let Stage::Leaving { until, .. } = &mut self.stage {
            let last = self.since + time.saturating_mul(MOST_TIMES).min(LONGEST);
            *until = last.min(now + time).max(*until);
        }
    }

    /// Returns whether its time before the request to stop ends at that moment or earlier.
    pub(super) fn has_left(&self, at: Moment) -> bool {
        matches!(self.stage, Stage::Leaving { until, .. } if until <= at)
    }

    /// Grants more time for its start or its stop. Returns the new deadline if it is later than
    /// before.
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

    /// Notes that it is stopping without being asked.
    pub(super) fn stops(&mut self, id: WorkerId, kill_at: Moment, turn: &mut Turn<'_>) {
        if let Some(pid) = self.pid().filter(|_| self.is_alive() && !self.is_stopping()) {
            let generation = self.generation;
            turn.report(Report::WorkerStopping { id, pid, generation });
            self.enter(Stage::Stopping { pid, kill_at }, turn.now);
        }
    }

    /// Returns whether it is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }
}
