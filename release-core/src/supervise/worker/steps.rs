//! The steps that a worker takes: processes wished for, taking over, told to end, gone.

use std::time::Duration;

use super::{Role, Worker};
use crate::supervise::Moment;
use crate::supervise::process::{Process, Stage};
use crate::supervise::turn::Turn;
use crate::supervise::{
    Action, GroupSpec, Hung, KillReason, ReloadPolicy, RequestId, RestartPolicy, Usage,
};

impl Worker {
    /// The next process is not started before this.
    pub(in crate::supervise) fn wait_until(&mut self, due: Moment) {
        self.due = Some(due);
    }

    /// Takes a process out that has ended; without a pid, the one that could not be started.
    pub(in crate::supervise) fn remove(
        &mut self,
        pid: Option<i32>,
        now: Moment,
    ) -> Option<(Role, Process)> {
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
    pub(in crate::supervise) fn turn_to(&mut self, generation: u32, now: Moment) {
        self.generation = generation;
        self.hurry(now);
    }

    /// Ends a back-off.
    fn hurry(&mut self, now: Moment) {
        self.retry_at = None;
        self.due = self.due.map(|due| due.min(now));
    }

    /// A process that is started from now on is to take over.
    pub(in crate::supervise) fn restart(&mut self, request: RequestId, now: Moment) {
        self.restarting.push(request);
        self.last_end = None;
        self.hurry(now);
        // Also when it is being replaced: that may be taken back, and this is not.
        if let Some(process) = &mut self.serving {
            process.is_stale = process.pid().is_some();
        }
    }

    /// The process that serves is to go on; who waited for another one.
    pub(in crate::supervise) fn give_up_restart(&mut self) -> Vec<RequestId> {
        if let Some(process) = &mut self.serving {
            process.is_stale = false;
        }
        std::mem::take(&mut self.restarting)
    }

    /// Starts a process when none serves and the time has come.
    pub(in crate::supervise) fn fill(&mut self, policy: &ReloadPolicy, turn: &mut Turn<'_>) {
        if self.serving.is_none() && self.due.is_none() {
            self.serving = self.replacement.take();
        }
        self.due = self.due.filter(|due| turn.now < *due);
        // Only a worker that is scaled away and back all the time has more than that draining.
        let is_crowded = self.draining.len() > policy.draining;
        let is_over = self.last_end.is_some();
        if self.serving.is_none() && self.due.is_none() && !is_over && !is_crowded {
            self.serving = Some(self.wish(turn));
        }
    }

    pub(in crate::supervise) fn spawn_replacement(&mut self, turn: &mut Turn<'_>) {
        self.replacement = Some(self.wish(turn));
    }

    fn wish(&self, turn: &mut Turn<'_>) -> Process {
        let (id, generation) = (self.id, self.generation);
        turn.act(Action::Spawn { id, generation });
        Process::wished(generation, turn.now)
    }

    pub(in crate::supervise) fn spawned(
        &mut self,
        pid: i32,
        spec: &GroupSpec,
        turn: &mut Turn<'_>,
    ) {
        let id = self.id;
        let mut current = self.serving.iter_mut().chain(&mut self.replacement);
        let Some(wish) = current.find(|it| matches!(it.stage, Stage::Spawning)) else { return };
        wish.spawned(id, pid, spec, turn);
        let is_ready = wish.was_ready();
        self.starts = self.starts.saturating_add(1);
        if is_ready {
            self.note_ready();
        }
    }

    pub(in crate::supervise) fn ready(&mut self, pid: i32, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let id = self.id;
        let Some(process) = self.find(pid) else { return };
        if matches!(process.stage, Stage::Starting { .. }) {
            process.ready(id, spec, turn);
            self.note_ready();
        }
    }

    /// Takes note of what the process has used that does its job.
    pub(in crate::supervise) fn measured(&mut self, usage: &Usage, turn: &mut Turn<'_>) {
        let id = self.id;
        let serving = self.serving.iter_mut().filter(|it| it.pid() == Some(usage.pid));
        serving.for_each(|process| process.measure(id, usage, turn));
    }

    fn note_ready(&mut self) {
        self.was_ready = true;
        self.failed_starts = 0;
    }

    /// Does what time alone does to processes that were not told to end.
    pub(in crate::supervise) fn age(&mut self, spec: &GroupSpec, turn: &mut Turn<'_>) {
        let mut is_ready = false;
        for process in self.serving.iter_mut().chain(&mut self.replacement) {
            let was_ready = process.was_ready();
            process.age(self.id, spec, turn);
            is_ready |= process.was_ready() && !was_ready;
        }
        if is_ready {
            self.note_ready();
        }
        self.retry_at = self.retry_at.filter(|at| turn.now < *at);
    }

    /// A proven replacement takes over, or a ready one when its generation `is_tested`; one of a
    /// generation that is not wanted any more goes.
    pub(in crate::supervise) fn relieve(
        &mut self,
        is_tested: bool,
        leaving: Duration,
        now: Moment,
    ) {
        let wanted = self.generation;
        let is_due = |it: &mut Process| {
            it.may_take_over(is_tested) || (it.is_in_service() && it.generation != wanted)
        };
        let Some(replacement) = self.replacement.take_if(is_due) else { return };
        let other = if replacement.generation == wanted {
            self.serving.replace(replacement)
        } else {
            Some(replacement)
        };
        self.drain(other, leaving, now);
    }

    /// Wants no process.
    pub(in crate::supervise) fn stop(&mut self, leaving: Duration, now: Moment) {
        if self.due.take().is_some() {
            self.idle_since = Some(now);
        }
        self.retry_at = None;
        let serving = self.serving.take_if(|process| process.is_in_service());
        let replacement = self.replacement.take_if(|process| process.is_in_service());
        self.drain(serving, leaving, now);
        self.drain(replacement, leaving, now);
    }

    fn drain(&mut self, process: Option<Process>, leaving: Duration, now: Moment) {
        if let Some(mut process) = process {
            process.leave(leaving, now);
            self.draining.push(process);
        }
    }

    /// Tells those to end whose time to leave is over at that moment.
    pub(in crate::supervise) fn dismiss(
        &mut self,
        leave_at: Moment,
        kill_at: Moment,
        turn: &mut Turn<'_>,
    ) {
        for process in self.draining.iter_mut().filter(|it| it.has_left(leave_at)) {
            process.terminate(self.id, kill_at, turn);
        }
    }

    /// Kills what is not dying yet; how many those were.
    pub(in crate::supervise) fn kill(&mut self, reason: &KillReason, turn: &mut Turn<'_>) -> usize {
        self.kill_those(Process::is_alive, reason, turn)
    }

    /// Kills what was told to end and is still there when its time is over; how many those were.
    pub(in crate::supervise) fn kill_overdue(&mut self, turn: &mut Turn<'_>) -> usize {
        let now = turn.now;
        let overdue = |process: &Process| process.is_overdue(now);
        self.kill_those(overdue, &KillReason::StopDeadline, turn)
    }

    /// Kills a process that broke the protocol; how many those are.
    pub(in crate::supervise) fn violated(
        &mut self,
        pid: i32,
        what: String,
        turn: &mut Turn<'_>,
    ) -> usize {
        let it = |process: &Process| process.pid() == Some(pid) && process.is_alive();
        self.kill_those(it, &KillReason::Violation(what), turn)
    }

    /// Kills a process that does not get on. One that starts, or was told to end, has its time to.
    pub(in crate::supervise) fn hung(&mut self, pid: i32, how: Hung, turn: &mut Turn<'_>) {
        let it = |process: &Process| {
            process.pid() == Some(pid) && process.is_in_service() && process.was_ready()
        };
        self.kill_those(it, &KillReason::Hung(how), turn);
    }

    fn kill_those(
        &mut self,
        which: impl Fn(&Process) -> bool,
        reason: &KillReason,
        turn: &mut Turn<'_>,
    ) -> usize {
        let id = self.id;
        let those = self.processes_mut().filter(|process| which(process));
        those.map(|process| process.kill(id, reason.clone(), turn)).count()
    }

    /// A replacement failed, and another one is still wanted.
    pub(in crate::supervise) fn retry_replacement(&mut self, at: Moment) {
        self.retry_at = Some(at);
    }

    /// Counts the end of a process, or of the attempt to start one.
    pub(in crate::supervise) fn count_death(
        &mut self,
        process: &Process,
        policy: &RestartPolicy,
        now: Moment,
    ) {
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
