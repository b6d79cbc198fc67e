//! One worker: what it is, which generation it is to run, and its processes.

use std::time::{Duration, Instant};

use super::process::{Process, Stage};
use super::{
    Action, GroupSpec, KillReason, ReloadPolicy, RestartPolicy, State, Ticket, WorkerId,
    WorkerStatus,
};

/// What a process is to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Serving,
    Replacement,
    Draining,
}

/// A worker, over all its processes.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    /// The index of its group, and its place in it.
    pub(super) group: usize,
    pub(super) rank: u32,
    /// The generation that it is to run.
    pub(super) generation: u32,
    /// The process that does its job.
    pub(super) serving: Option<Process>,
    /// When the next one is due, if there is none and one is wanted.
    due: Option<Instant>,
    /// Since when there is none; never before the pool was started.
    idle_since: Option<Instant>,
    /// The process that takes over when it is proven.
    pub(super) replacement: Option<Process>,
    /// When a replacement is tried again after one that failed.
    retry_at: Option<Instant>,
    /// Processes that were told to end because they are not wanted any more.
    pub(super) draining: Vec<Process>,
    /// Who waits for a restart of this worker.
    pub(super) restarting: Vec<Ticket>,
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
            was_ready: false,
            starts: 0,
            early_deaths: 0,
            failed_starts: 0,
        }
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.serving.iter().chain(&self.replacement).chain(&self.draining)
    }

    pub(super) fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.serving.iter_mut().chain(&mut self.replacement).chain(&mut self.draining)
    }

    pub(super) fn find(&mut self, pid: i32) -> Option<&mut Process> {
        self.processes_mut().find(|process| process.pid() == Some(pid))
    }

    pub(super) fn status<'a>(&self, group: &'a str, now: Instant) -> WorkerStatus<'a> {
        let process = self.serving.as_ref().or_else(|| self.draining.last());
        let state = match process {
            Some(process) => process.state(),
            None if self.due.is_some() => State::Waiting,
            None => State::Gone,
        };
        let since = process.map_or(self.idle_since, |process| Some(process.since()));
        WorkerStatus {
            id: self.id,
            group,
            pid: process.and_then(Process::pid),
            generation: process.map_or(self.generation, |process| process.generation),
            state,
            restarts: self.starts.saturating_sub(1),
            since: since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            draining: self.draining.len(),
        }
    }

    /// When the passing of time alone changes something, as long as the pool runs.
    pub(super) fn timer(&self) -> Option<Instant> {
        self.processes().filter_map(Process::timer).chain(self.due).chain(self.retry_at).min()
    }

    /// Whether it has neither a process nor the wish for one.
    pub(super) fn is_gone(&self) -> bool {
        self.due.is_none() && self.processes().next().is_none()
    }

    /// Whether a proven process of the generation that it is to run does its job.
    pub(super) fn is_settled(&self) -> bool {
        self.replacement.is_none()
            && self.serving.as_ref().is_some_and(|process| {
                process.is_proven && process.is_in_service() && !self.is_outdated(process)
            })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.serving.as_ref().is_some_and(|process| process.state() == State::Ready)
    }

    /// Whether nothing of another generation serves or is being started.
    pub(super) fn is_at_rest(&self) -> bool {
        self.replacement.is_none()
            && self.serving.as_ref().is_none_or(|process| {
                process.generation == self.generation && process.state() != State::Starting
            })
    }

    /// Whether its serving process is to be replaced, and can be now.
    pub(super) fn awaits_replacement(&self, policy: &ReloadPolicy) -> bool {
        self.replacement.is_none()
            && self.retry_at.is_none()
            && self.draining.len() < policy.draining
            && self.serving.as_ref().is_some_and(|it| it.is_in_service() && self.is_outdated(it))
    }

    pub(super) fn is_outdated(&self, process: &Process) -> bool {
        process.is_stale || process.generation != self.generation
    }

    /// The next process is not started before this.
    pub(super) fn wait_until(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// Takes a process out that has ended; without a pid, the one that could not be started.
    pub(super) fn remove(&mut self, pid: Option<i32>, now: Instant) -> Option<(Role, Process)> {
        let is_it = |process: &mut Process| process.pid() == pid;
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

    /// It is to run this generation from now on; without delay if it waits.
    pub(super) fn turn_to(&mut self, generation: u32, now: Instant) {
        self.generation = generation;
        self.hurry(now);
    }

    /// Ends a back-off.
    fn hurry(&mut self, now: Instant) {
        self.retry_at = None;
        self.due = self.due.map(|due| due.min(now));
    }

    /// A process that is started from now on is to take over.
    pub(super) fn restart(&mut self, ticket: Ticket, now: Instant) {
        self.restarting.push(ticket);
        self.hurry(now);
        if let (Some(process), None) = (&mut self.serving, &self.replacement) {
            process.is_stale = process.pid().is_some();
        }
    }

    /// The process that serves is to go on; who waited for another one.
    pub(super) fn give_up_restart(&mut self) -> Vec<Ticket> {
        if let Some(process) = &mut self.serving {
            process.is_stale = false;
        }
        std::mem::take(&mut self.restarting)
    }

    /// Starts a process when none serves and the time has come.
    pub(super) fn fill(&mut self, policy: &ReloadPolicy, now: Instant, actions: &mut Vec<Action>) {
        if self.serving.is_none() && self.due.is_none() {
            self.serving = self.replacement.take();
        }
        // Only a worker that is scaled away and back all the time has more than that draining.
        let is_crowded = self.draining.len() > policy.draining;
        let is_due = self.due.is_none_or(|due| due <= now);
        if self.serving.is_none() && is_due && !is_crowded {
            self.due = None;
            self.serving = Some(self.wish(now, actions));
        }
    }

    pub(super) fn spawn_replacement(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.replacement = Some(self.wish(now, actions));
    }

    fn wish(&self, now: Instant, actions: &mut Vec<Action>) -> Process {
        let (id, generation) = (self.id, self.generation);
        actions.push(Action::Spawn { id, generation });
        Process::wished(generation, now)
    }

    pub(super) fn spawned(
        &mut self,
        pid: i32,
        spec: &GroupSpec,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let id = self.id;
        let mut current = self.serving.iter_mut().chain(&mut self.replacement);
        let Some(wish) = current.find(|it| matches!(it.stage, Stage::Spawning)) else { return };
        wish.spawned(id, pid, spec, now, actions);
        let is_ready = wish.was_ready();
        self.starts = self.starts.saturating_add(1);
        if is_ready {
            self.note_ready();
        }
    }

    pub(super) fn ready(
        &mut self,
        pid: i32,
        spec: &GroupSpec,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let id = self.id;
        let Some(process) = self.find(pid) else { return };
        if matches!(process.stage, Stage::Starting { .. }) {
            process.ready(id, spec, now, actions);
            self.note_ready();
        }
    }

    fn note_ready(&mut self) {
        self.was_ready = true;
        self.failed_starts = 0;
    }

    /// Does what time alone does to processes that were not told to end.
    pub(super) fn age(&mut self, spec: &GroupSpec, now: Instant, actions: &mut Vec<Action>) {
        for process in self.serving.iter_mut().chain(&mut self.replacement) {
            process.age(self.id, spec, now, actions);
        }
        self.retry_at = self.retry_at.filter(|at| now < *at);
    }

    /// A proven replacement takes over; one of a generation that is not wanted any more goes.
    pub(super) fn relieve(&mut self, kill_at: Instant, now: Instant, actions: &mut Vec<Action>) {
        let wanted = self.generation;
        let is_due =
            |it: &mut Process| it.is_in_service() && (it.is_proven || it.generation != wanted);
        let Some(replacement) = self.replacement.take_if(is_due) else { return };
        let other = if replacement.generation == wanted {
            self.serving.replace(replacement)
        } else {
            Some(replacement)
        };
        self.drain(other, kill_at, now, actions);
    }

    /// Tells all processes to end, and wants none.
    pub(super) fn stop(&mut self, kill_at: Instant, now: Instant, actions: &mut Vec<Action>) {
        if self.due.take().is_some() {
            self.idle_since = Some(now);
        }
        self.retry_at = None;
        let serving = self.serving.take_if(|process| process.is_in_service());
        let replacement = self.replacement.take_if(|process| process.is_in_service());
        self.drain(serving, kill_at, now, actions);
        self.drain(replacement, kill_at, now, actions);
    }

    fn drain(
        &mut self,
        process: Option<Process>,
        kill_at: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(mut process) = process {
            if process.is_in_service() {
                process.terminate(self.id, kill_at, now, actions);
            }
            self.draining.push(process);
        }
    }

    /// Kills what is not dying yet; how many those were.
    pub(super) fn kill(
        &mut self,
        reason: &KillReason,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> usize {
        self.kill_those(Process::is_alive, reason, now, actions)
    }

    /// Kills what was told to end and is still there when its time is over; how many those were.
    pub(super) fn kill_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) -> usize {
        let overdue = |process: &Process| process.is_overdue(now);
        self.kill_those(overdue, &KillReason::StopDeadline, now, actions)
    }

    /// Kills a process that broke the protocol; how many those are.
    pub(super) fn violated(
        &mut self,
        pid: i32,
        what: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> usize {
        let it = |process: &Process| process.pid() == Some(pid) && process.is_alive();
        self.kill_those(it, &KillReason::Violation(what), now, actions)
    }

    fn kill_those(
        &mut self,
        which: impl Fn(&Process) -> bool,
        reason: &KillReason,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> usize {
        let id = self.id;
        let those = self.processes_mut().filter(|process| which(process));
        those.map(|process| process.kill(id, reason.clone(), now, actions)).count()
    }

    /// A replacement failed, and another one is still wanted.
    pub(super) fn retry_replacement(&mut self, at: Instant) {
        self.retry_at = Some(at);
    }

    /// Counts the end of a process, or of the attempt to start one.
    pub(super) fn count_death(&mut self, process: &Process, policy: &RestartPolicy, now: Instant) {
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
