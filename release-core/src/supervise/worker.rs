//! One worker: the phases of its processes, and what it remembers between them.

use std::time::{Duration, Instant};

use super::{
    Action, Exit, GroupSpec, KillReason, Ready, Report, RestartPolicy, Signal, State, WorkerId,
};

/// Where a worker is between two processes, or its process between start and end.
#[derive(Debug)]
pub(super) enum Phase {
    /// No process, and none is wanted.
    Gone,
    /// No process; the next one is due.
    Waiting { until: Instant },
    /// A process was asked for; the answer is on its way.
    Spawning,
    /// Not ready yet.
    Starting { pid: i32, until: Instant },
    /// At work.
    Ready { pid: i32 },
    /// Asked to end.
    Stopping { pid: i32 },
    /// Killed, but not reaped yet.
    Killed { pid: i32, reason: KillReason },
}

/// A worker, over all its processes.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    /// The index of its group.
    pub(super) group: usize,
    pub(super) phase: Phase,
    /// When the phase was entered; never before the pool was started.
    since: Option<Instant>,
    /// When the present process was ready.
    ready_at: Option<Instant>,
    /// Whether any of its processes has been ready.
    pub(super) was_ready: bool,
    /// Processes started.
    starts: u32,
    /// Deaths and failed starts in a row without a healthy life among them.
    pub(super) early_deaths: u32,
    /// Those in a row that did not even become ready.
    pub(super) failed_starts: u32,
}

impl Worker {
    pub(super) fn new(id: WorkerId, group: usize) -> Self {
        Self {
            id,
            group,
            phase: Phase::Gone,
            since: None,
            ready_at: None,
            was_ready: false,
            starts: 0,
            early_deaths: 0,
            failed_starts: 0,
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Gone | Phase::Waiting { .. } | Phase::Spawning => None,
            Phase::Starting { pid, .. }
            | Phase::Ready { pid }
            | Phase::Stopping { pid }
            | Phase::Killed { pid, .. } => Some(pid),
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Gone => State::Gone,
            Phase::Waiting { .. } => State::Waiting,
            Phase::Spawning | Phase::Starting { .. } => State::Starting,
            Phase::Ready { .. } => State::Ready,
            Phase::Stopping { .. } | Phase::Killed { .. } => State::Stopping,
        }
    }

    pub(super) fn since(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(super) fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// When the passing of time alone changes the phase, as long as the pool runs.
    pub(super) fn timer(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } | Phase::Starting { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = Some(now);
    }

    pub(super) fn spawn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.ready_at = None;
        self.enter(Phase::Spawning, now);
        actions.push(Action::Spawn { id: self.id });
    }

    pub(super) fn spawned(
        &mut self,
        pid: i32,
        spec: &GroupSpec,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.starts = self.starts.saturating_add(1);
        let until = now + spec.policy.ready_timeout;
        self.enter(Phase::Starting { pid, until }, now);
        actions.push(Action::Report(Report::Started { id: self.id, pid }));
        if spec.ready == Ready::AtOnce {
            self.ready(now, actions);
        }
    }

    pub(super) fn ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(pid) = self.pid() else { return };
        self.ready_at = Some(now);
        self.was_ready = true;
        self.failed_starts = 0;
        self.enter(Phase::Ready { pid }, now);
        actions.push(Action::Report(Report::Ready { id: self.id, pid }));
    }

    pub(super) fn terminate(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(pid) = self.pid() else { return };
        let (id, signal) = (self.id, Signal::Terminate);
        actions.push(Action::Signal { id, pid, signal });
        self.enter(Phase::Stopping { pid }, now);
    }

    pub(super) fn kill(&mut self, reason: KillReason, now: Instant, actions: &mut Vec<Action>) {
        let Some(pid) = self.pid() else { return };
        let (id, signal) = (self.id, Signal::Kill);
        let why = reason.clone();
        actions.push(Action::Report(Report::Killed { id, pid, reason: why }));
        actions.push(Action::Signal { id, pid, signal });
        self.enter(Phase::Killed { pid, reason }, now);
    }

    /// The cause of a death, for the one who asks why: not our `SIGKILL` but the reason for it.
    pub(super) fn cause(&self, exit: Exit) -> String {
        match &self.phase {
            Phase::Killed { reason, .. } => format!("killed: {reason}"),
            _ => exit.to_string(),
        }
    }

    /// Counts the end of a process, or of the attempt to start one.
    pub(super) fn count_death(&mut self, policy: &RestartPolicy, now: Instant) {
        let life = |ready_at| now.saturating_duration_since(ready_at);
        match self.ready_at.map(life) {
            Some(life) if life >= policy.healthy_after => self.early_deaths = 0,
            Some(_) => self.early_deaths = self.early_deaths.saturating_add(1),
            None => {
                self.early_deaths = self.early_deaths.saturating_add(1);
                self.failed_starts = self.failed_starts.saturating_add(1);
            }
        }
    }
}
