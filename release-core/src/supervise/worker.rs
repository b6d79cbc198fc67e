//! One worker: what it is, which generation it is to run, and how it stands with its processes.

mod steps;

use std::time::Duration;

use super::Moment;
use super::process::Process;
use super::{ReloadPolicy, RequestId, State, WorkerId, WorkerStatus};

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
    pub(super) due: Option<Moment>,
    /// Since when there is none; never before the pool was started.
    pub(super) idle_since: Option<Moment>,
    /// The process that takes over when it is proven.
    pub(super) replacement: Option<Process>,
    /// When a replacement is tried again after one that failed.
    pub(super) retry_at: Option<Moment>,
    /// Processes that were told to end because they are not wanted any more.
    pub(super) draining: Vec<Process>,
    /// Who waits for a restart of this worker.
    pub(super) restarting: Vec<RequestId>,
    /// How its last process ended, when it is to have no other: in words when that was a failure.
    pub(super) last_end: Option<Result<(), String>>,
    /// Whether any of its processes has been ready.
    pub(super) was_ready: bool,
    /// Processes started.
    pub(super) starts: u32,
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
            last_end: None,
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

    pub(super) fn status<'a>(&'a self, group: &'a str, now: Moment) -> WorkerStatus<'a> {
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
            since: since.map_or(Duration::ZERO, |since| now - since),
            draining: self.draining.len(),
            status_text: process.and_then(|process| process.status_text.as_deref()),
        }
    }

    /// When the passing of time alone changes something, as long as the pool runs; processes may be
    /// `started` or not.
    pub(super) fn timer(&self, started: bool) -> Option<Moment> {
        let starts = self.due.into_iter().chain(self.retry_at).filter(|_| started);
        self.processes().filter_map(Process::timer).chain(starts).min()
    }

    /// Whether it has neither a process nor the wish for one.
    pub(super) fn is_gone(&self) -> bool {
        self.due.is_none() && self.processes().next().is_none()
    }

    /// Whether it has no process that serves, and is not to get one.
    pub(super) fn is_over(&self) -> bool {
        self.last_end.is_some() && self.serving.is_none() && self.replacement.is_none()
    }

    /// Whether a proven process of the generation that it is to run does its job; a ready one is
    /// enough when that generation `is_tested`. A replacement for one that is over a limit changes
    /// nothing about that.
    pub(super) fn is_settled(&self, is_tested: bool) -> bool {
        self.serving.as_ref().is_some_and(|process| {
            process.may_take_over(is_tested)
                && !self.is_outdated(process)
                && (self.replacement.is_none() || process.worn_since.is_some())
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
    ///
    /// One that is over a limit waits while everybody is replaced anyway.
    pub(super) fn awaits_replacement(&self, policy: &ReloadPolicy, is_rolling: bool) -> bool {
        let is_due =
            |it: &Process| self.is_outdated(it) || (it.worn_since.is_some() && !is_rolling);
        self.replacement.is_none()
            && self.retry_at.is_none()
            && self.draining.len() < policy.draining
            && self.serving.as_ref().is_some_and(|it| it.is_in_service() && is_due(it))
    }

    /// Since when its process is over a limit, if nothing else is wrong with it.
    pub(super) fn worn_since(&self) -> Option<Moment> {
        self.serving.as_ref().filter(|it| !self.is_outdated(it))?.worn_since
    }

    /// Whether a process of this generation has been ready for the canary time.
    pub(super) fn has_proven(&self, generation: u32) -> bool {
        let mut current = self.serving.iter().chain(&self.replacement);
        current.any(|process| process.generation == generation && process.is_proven)
    }

    pub(super) fn is_outdated(&self, process: &Process) -> bool {
        process.is_stale || process.generation != self.generation
    }
}
