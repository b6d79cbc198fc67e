//! One worker: its generation and its processes.

use std::time::Duration;

use super::process::{PoolProcess, Stage};
use super::turn::Turn;
use super::{
    Action, GroupSpec, Hung, KillReason, Moment, ReloadPolicy, RequestId, RestartPolicy, State,
    Usage, WorkerId, WorkerStatus,
};

/// Role of a process for its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Serving,
    Replacement,
    Draining,
}

/// A worker with all its processes.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PoolWorker {
    pub(super) id: WorkerId,
    /// Index of its group, and its position in the group.
    pub(super) group: usize,
    pub(super) rank: u32,
    /// Desired generation.
    pub(super) generation: u32,
    /// Process that does the work.
    pub(super) serving: Option<PoolProcess>,
    /// When the next process is due, if there is none and a back-off applies.
    pub(super) due: Option<Moment>,
    /// Since when it has no process. `None` until the pool is started.
    pub(super) idle_since: Option<Moment>,
    /// Process that takes over when it is proven.
    pub(super) replacement: Option<PoolProcess>,
    /// When to retry after a failed replacement.
    pub(super) retry_at: Option<Moment>,
    /// Processes that stop because they are no longer needed.
    pub(super) draining: Vec<PoolProcess>,
    /// Requests that wait for a restart of this worker.
    pub(super) restarting: Vec<RequestId>,
    /// End of its last process if no other follows, with the reason of a failure.
    pub(super) last_end: Option<Result<(), String>>,
    /// Whether any of its processes has been ready.
    pub(super) was_ready: bool,
    /// Number of processes started.
    pub(super) starts: u32,
    /// Consecutive early exits and failed starts.
    pub(super) early_deaths: u32,
    /// Consecutive processes that did not become ready.
    pub(super) failed_starts: u32,
}

impl PoolWorker {
    pub(super) fn new(id: WorkerId, group: usize, rank: u32, generation: u32) -> Self {
        Self {
            id,
            group,
            rank,
            generation,
            serving: None,
            due: None,
            idle_since: None,
            replacement: None,
            retry_at: None,
            draining: Vec::new(),
            restarting: Vec::new(),
            last_end: None,
            was_ready: false,
            starts: 0,
            early_deaths: 0,
            failed_starts: 0,
        }
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &PoolProcess> {
        self.serving.iter().chain(&self.replacement).chain(&self.draining)
    }

    pub(super) fn processes_mut(&mut self) -> impl Iterator<Item = &mut PoolProcess> {
        self.serving.iter_mut().chain(&mut self.replacement).chain(&mut self.draining)
    }

    pub(super) fn find(&mut self, pid: i32) -> Option<&mut PoolProcess> {
        self.processes_mut().find(|process| process.pid() == Some(pid))
    }

    pub(super) fn status<'a>(
        &'a self,
        group: &'a str,
        waits: bool,
        now: Moment,
    ) -> WorkerStatus<'a> {
        let process = self.serving.as_ref().or_else(|| self.draining.last());
        let state = match process {
            Some(process) => process.state(),
            None if self.due.is_some() || waits => State::Waiting,
            None => State::Gone,
        };
        let since = process.map_or(self.idle_since, |process| Some(process.since));
        WorkerStatus {
            id: self.id,
            group,
            pid: process.and_then(PoolProcess::pid),
            generation: process.map_or(self.generation, |process| process.generation),
            state,
            restarts: self.starts.saturating_sub(1),
            since: since.map_or(Duration::ZERO, |since| now - since),
            draining: self.draining.len(),
            status_text: process.and_then(|process| process.status_text.as_deref()),
        }
    }

    /// Returns when the next change by time alone is due while the pool runs. Restarts count only
    /// if `starts`.
    pub(super) fn timer(&self, started: bool) -> Option<Moment> {
        let starts = self.due.into_iter().chain(self.retry_at).filter(|_| started);
        self.processes().filter_map(PoolProcess::timer).chain(starts).min()
    }

    /// Returns whether it has no process and none is due.
    pub(super) fn is_removed(&self) -> bool {
        self.due.is_none() && self.processes().next().is_none()
    }

    /// Returns whether it has no process that serves and will not get one.
    pub(super) fn is_finished(&self) -> bool {
        self.last_end.is_some() && self.serving.is_none() && self.replacement.is_none()
    }

    /// Returns whether a proven process of the desired generation serves. A ready one suffices if
    /// that generation `is_tested`. A replacement for a process over its limit changes nothing.
    pub(super) fn is_settled(&self, is_tested: bool) -> bool {
        self.serving.as_ref().is_some_and(|process| {
            process.may_take_over(is_tested)
                && !self.is_outdated(process)
                && (self.replacement.is_none() || process.over_limit_since.is_some())
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.serving.as_ref().is_some_and(|process| process.state() == State::Ready)
    }

    /// Returns whether no process of another generation serves or is being started.
    pub(super) fn is_idle(&self) -> bool {
        self.replacement.is_none()
            && self.serving.as_ref().is_none_or(|process| {
                process.generation == self.generation && process.state() != State::Starting
            })
    }

    /// Returns whether its serving process must be replaced and can be replaced now.
    ///
    /// A process over its limit waits while a reload replaces all of them.
    pub(super) fn awaits_replacement(&self, policy: &ReloadPolicy, is_rolling: bool) -> bool {
        let is_due = |it: &PoolProcess| {
            self.is_outdated(it) || (it.over_limit_since.is_some() && !is_rolling)
        };
        self.replacement.is_none()
            && self.retry_at.is_none()
            && self.draining.len() < policy.draining
            && self.serving.as_ref().is_some_and(|it| it.is_in_service() && is_due(it))
    }

    /// Returns since when its process exceeds a limit, if there is no other reason to replace it.
    pub(super) fn over_limit_since(&self) -> Option<Moment> {
        self.serving.as_ref().filter(|it| !self.is_outdated(it))?.over_limit_since
    }

    /// Returns whether a process of this generation has been ready for the canary time.
    pub(super) fn has_proven(&self, generation: u32) -> bool {
        let mut current = self.serving.iter().chain(&self.replacement);
        current.any(|process| process.generation == generation && process.is_proven)
    }

    pub(super) fn is_outdated(&self, process: &PoolProcess) -> bool {
        process.needs_replacement || process.generation != self.generation
    }

    /// Removes a process that has ended. Without a pid, removes the process that could not be
    /// started.
    pub(super) fn remove(&mut self, pid: Option<i32>, now: Moment) -> Option<(Role, PoolProcess)> {
        let is_it = |process: &mut PoolProcess| process.pid() == pid;
        let removed = if let Some(process) = self.serving.take_if(is_it) {
            (Role::Serving, process)
        } else if let Some(process) = self.replacement.take_if(is_it) {
            (Role::Replacement, process)
        } else {
            let index = self.draining.iter_mut().position(is_it)?;
            (Role::Draining, self.draining.remove(index))
        };
        if self.serving.is_none() {
            self.idle_since = Some(now);
        }
        Some(removed)
    }

    /// Sets its desired generation and ends its back-off.
    pub(super) fn set_generation(&mut self, generation: u32, now: Moment) {
        self.generation = generation;
        self.cancel_backoff(now);
    }

    /// Ends a back-off.
    fn cancel_backoff(&mut self, now: Moment) {
        self.retry_at = None;
        self.due = self.due.map(|due| due.min(now));
    }

    /// Adds a request for a restart: a process that is started after this must take over.
    pub(super) fn restart(&mut self, request: RequestId, now: Moment) {
        self.restarting.push(request);
        self.last_end = None;
        self.cancel_backoff(now);
        // Holds even during a replacement, which may be rolled back. A restart is not.
        for process in self.serving.iter_mut().chain(&mut self.replacement) {
            process.needs_replacement = process.pid().is_some();
        }
    }

    /// Keeps the serving process. Returns the requests that waited for another one.
    pub(super) fn give_up_restart(&mut self) -> Vec<RequestId> {
        for process in self.serving.iter_mut().chain(&mut self.replacement) {
            process.needs_replacement = false;
        }
        std::mem::take(&mut self.restarting)
    }

    /// Returns whether [`fill`](Self::fill) has something to do before its timer.
    pub(super) fn awaits_process(&self, policy: &ReloadPolicy) -> bool {
        let may_start = self.last_end.is_none() && self.draining.len() <= policy.draining;
        let has_none = self.serving.is_none() && self.due.is_none();
        has_none && (may_start || self.replacement.is_some())
    }

    /// Starts a process if none serves and none must be waited for.
    pub(super) fn fill(&mut self, policy: &ReloadPolicy, turn: &mut Turn<'_>) {
        if self.serving.is_none() && self.due.is_none() {
            self.serving = self.replacement.take();
        }
        self.due.take_if(|due| *due <= turn.now);
        // Only a worker that is repeatedly scaled away and back has that many draining.
        let is_crowded = self.draining.len() > policy.draining;
        let is_finished = self.last_end.is_some();
        if self.serving.is_none() && self.due.is_none() && !is_finished && !is_crowded {
            self.serving = Some(self.request_process(turn));
        }
    }

    pub(super) fn spawn_replacement(&mut self, turn: &mut Turn<'_>) {
        self.replacement = Some(self.request_process(turn));
    }

    fn request_process(&self, turn: &mut Turn<'_>) -> PoolProcess {
        let (id, generation) = (self.id, self.generation);
        turn.act(Action::Spawn { id, generation });
        PoolProcess::requested(generation, turn.now)
    }

    pub(super) fn spawned(&mut self, pid: i32, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let id = self.id;
        let mut current = self.serving.iter_mut().chain(&mut self.replacement);
        let Some(process) = current.find(|it| matches!(it.stage, Stage::Spawning)) else { return };
        process.spawned(id, pid, spec, turn);
        let is_ready = process.was_ready();
        self.starts = self.starts.saturating_add(1);
        if is_ready {
            self.note_ready();
        }
    }

    pub(super) fn ready(&mut self, pid: i32, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let id = self.id;
        let Some(process) = self.find(pid) else { return };
        if matches!(process.stage, Stage::Starting { .. }) {
            process.ready(id, spec, turn);
            self.note_ready();
        }
    }

    /// Compares the usage of its serving process with the limits.
    pub(super) fn measured(&mut self, usage: &Usage, turn: &mut Turn<'_>) {
        let id = self.id;
        let serving = self.serving.iter_mut().filter(|it| it.pid() == Some(usage.pid));
        serving.for_each(|process| process.measure(id, usage, turn));
    }

    fn note_ready(&mut self) {
        self.was_ready = true;
        self.failed_starts = 0;
    }

    /// Applies changes by time alone to processes that were not asked to stop.
    ///
    /// A worker that does not change is only read: after a fork, the first write to each page copies it.
    pub(super) fn age(&mut self, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let mut is_ready = false;
        for process in self.serving.iter_mut().chain(&mut self.replacement) {
            let was_ready = process.was_ready();
            process.age(self.id, spec, turn);
            is_ready |= process.was_ready() && !was_ready;
        }
        if is_ready {
            self.note_ready();
        }
        self.retry_at.take_if(|at| *at <= turn.now);
    }

    /// Lets a replacement take over if it is proven, or ready and its generation `is_tested`.
    /// Drains a replacement of an undesired generation.
    pub(super) fn replace_current(&mut self, is_tested: bool, leaving: Duration, now: Moment) {
        let wanted = self.generation;
        let is_due = self.is_replacement_due(is_tested);
        let Some(replacement) = self.replacement.take_if(|_| is_due) else { return };
        let other = if replacement.generation == wanted {
            self.serving.replace(replacement)
        } else {
            Some(replacement)
        };
        self.drain(other, leaving, now);
    }

    /// Returns whether [`replace_current`](Self::replace_current) has something to do.
    pub(super) fn is_replacement_due(&self, is_tested: bool) -> bool {
        self.replacement.as_ref().is_some_and(|it| {
            it.may_take_over(is_tested) || (it.is_in_service() && it.generation != self.generation)
        })
    }

    /// Returns whether [`stop`](Self::stop) has something to do.
    pub(super) fn is_to_be_stopped(&self) -> bool {
        let mut current = self.serving.iter().chain(&self.replacement);
        let has_plans = self.due.is_some() || self.retry_at.is_some();
        has_plans || current.any(PoolProcess::is_in_service)
    }

    /// Stops all its processes.
    pub(super) fn stop(&mut self, leaving: Duration, now: Moment) {
        if self.due.take().is_some() {
            self.idle_since = Some(now);
        }
        self.retry_at = None;
        let serving = self.serving.take_if(|process| process.is_in_service());
        let replacement = self.replacement.take_if(|process| process.is_in_service());
        self.drain(serving, leaving, now);
        self.drain(replacement, leaving, now);
    }

    fn drain(&mut self, process: Option<PoolProcess>, leaving: Duration, now: Moment) {
        if let Some(mut process) = process {
            process.leave(leaving, now);
            self.draining.push(process);
        }
    }

    /// Asks draining processes to stop whose time without new work has passed at `leave_at`.
    pub(super) fn terminate_leaving(
        &mut self,
        leave_at: Moment,
        kill_at: Moment,
        turn: &mut Turn<'_>,
    ) {
        for process in self.draining.iter_mut().filter(|it| it.has_left(leave_at)) {
            process.terminate(self.id, kill_at, turn);
        }
    }

    /// Kills every process that was not killed yet. Returns their number.
    pub(super) fn kill(&mut self, reason: &KillReason, turn: &mut Turn<'_>) -> usize {
        self.kill_matching(PoolProcess::is_alive, reason, turn)
    }

    /// Kills every process whose stop deadline has passed. Returns their number.
    pub(super) fn kill_overdue(&mut self, turn: &mut Turn<'_>) -> usize {
        let now = turn.now;
        let overdue = |process: &PoolProcess| process.is_overdue(now);
        self.kill_matching(overdue, &KillReason::StopDeadline, turn)
    }

    /// Kills a process that violated the protocol. Returns the number of killed processes.
    pub(super) fn violated(&mut self, pid: i32, what: String, turn: &mut Turn<'_>) -> usize {
        let it = |process: &PoolProcess| process.pid() == Some(pid) && process.is_alive();
        self.kill_matching(it, &KillReason::Violation(what), turn)
    }

    /// Kills a process that makes no progress, unless it is starting or stopping, which has a
    /// deadline. The time limit of a job is shorter than that of a stop. Returns the number of killed
    /// processes.
    pub(super) fn hung(&mut self, pid: i32, how: Hung, turn: &mut Turn<'_>) -> usize {
        let is_job = matches!(how, Hung::Job(_));
        let it = |process: &PoolProcess| {
            let serves = process.is_in_service() && process.was_ready();
            process.pid() == Some(pid) && (serves || (is_job && process.is_alive()))
        };
        self.kill_matching(it, &KillReason::Hung(how), turn)
    }

    fn kill_matching(
        &mut self,
        which: impl Fn(&PoolProcess) -> bool,
        reason: &KillReason,
        turn: &mut Turn<'_>,
    ) -> usize {
        let id = self.id;
        let matching = self.processes_mut().filter(|process| which(process));
        matching.map(|process| process.kill(id, reason.clone(), turn)).count()
    }

    /// Counts the end of a process, or of the attempt to start one.
    pub(super) fn count_death(
        &mut self,
        process: &PoolProcess,
        policy: &RestartPolicy,
        now: Moment,
    ) {
        // Not the fault of the process, and not quicker than its job.
        let is_healthy = process.life(now).is_some_and(|life| life >= policy.healthy_after);
        if process.was_killed_for_a_job() && !is_healthy {
            return;
        }
        match process.life(now) {
            Some(life) if life >= policy.healthy_after => self.early_deaths = 0,
            Some(_) => self.early_deaths = self.early_deaths.saturating_add(1),
            None => {
                self.early_deaths = self.early_deaths.saturating_add(1);
                self.failed_starts = self.failed_starts.saturating_add(1);
            }
        }
    }
}
