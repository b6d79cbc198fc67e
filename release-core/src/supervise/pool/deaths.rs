//! Consequences of the end of a process, or of a failed attempt to start one.

use std::time::Duration;

use super::Pool;
use super::underway::PAUSE;
use crate::supervise::process::PoolProcess;
use crate::supervise::turn::Turn;
use crate::supervise::worker::{PoolWorker, Role};
use crate::supervise::{Exceeded, Report, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Consequence for a worker whose serving process has ended.
enum Verdict {
    Retry(Duration),
    FailPool(String),
    Gone,
}

impl Verdict {
    fn delay(&self) -> Option<Duration> {
        match self {
            Self::Retry(delay) => Some(*delay),
            Self::FailPool(_) | Self::Gone => None,
        }
    }
}

/// The end of a process, or of the attempt to start one.
struct ProcessEnd {
    /// Index of its worker, and its role.
    index: usize,
    role: Role,
    process: PoolProcess,
    /// Exit status, unless it was never started.
    exit: Option<ExitStatus>,
    cause: String,
    /// Whether this exit is the first in excess of the limit.
    too_fast: bool,
}

impl Pool {
    /// Returns whether all workers that a group should have are finished, and have ended well.
    pub(crate) fn is_done(&self, group: &str) -> bool {
        let is_its = |it: &&PoolWorker| self.groups[it.group].spec.name == group && self.wants(it);
        let is_well = |it: &PoolWorker| it.is_finished() && it.last_end == Some(Ok(()));
        self.workers.iter().filter(is_its).all(is_well)
    }

    pub(super) fn spawn_failed(
        &mut self,
        index: usize,
        reason: String,
        is_short: bool,
        turn: &mut Turn<'_>,
    ) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(None, turn.now) else { return };
        let policy = &self.groups[group].spec.restart;
        let should_wait = is_short && self.shortage.should_wait(policy, turn.now);
        let cause = reason.clone();
        let end = ProcessEnd { index, role, process, exit: None, cause, too_fast: false };
        let verdict = self.judge(&end, turn);
        let retry_in = match role {
            Role::Replacement if should_wait => Some(PAUSE),
            Role::Serving | Role::Replacement | Role::Draining => verdict.delay(),
        };
        let why = format!("worker {id} cannot be started: {reason}");
        turn.report(Report::SpawnFailed { id, reason, retry_in });
        self.carry_out(verdict, index, turn);
        if !should_wait {
            self.fail_waiting(&end, &why, turn);
        }
    }

    pub(super) fn exited(&mut self, index: usize, pid: i32, exit: ExitStatus, turn: &mut Turn<'_>) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(Some(pid), turn.now) else { return };
        let cause = process.cause(exit);
        // Exits while the pool stops are expected. The end of a replacement concerns only the
        // operation that requested it.
        let follows = self.groups[group].spec.restart.respawn.follows(Some(exit));
        // A serving process that was stopping has reported that itself.
        let is_orderly = process.is_stopping() && exit == ExitStatus::Code(0);
        let is_fault = !is_orderly && !process.was_killed_for_a_job();
        let counts = role == Role::Serving && self.is_running() && follows && is_fault;
        let too_fast = counts && self.groups[group].count_death(turn.now);
        let end = ProcessEnd { index, role, process, exit: Some(exit), cause, too_fast };
        let verdict = self.judge(&end, turn);
        let (generation, restart_in) = (end.process.generation, verdict.delay());
        turn.report(Report::Died { id, pid, generation, exit, restart_in });
        if too_fast {
            let group = self.groups[group].spec.name.clone();
            turn.report(Report::TooFast { group });
        }
        self.carry_out(verdict, index, turn);
        let why = end.reason(id);
        self.fail_waiting(&end, &why, turn);
    }

    /// Gives up a process that cannot be killed.
    pub(super) fn kill_failed(
        &mut self,
        index: usize,
        pid: i32,
        reason: String,
        turn: &mut Turn<'_>,
    ) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(Some(pid), turn.now) else { return };
        let why = format!("process {pid} of worker {id} cannot be ended: {reason}");
        let generation = process.generation;
        turn.report(Report::LeftBehind { id, pid, generation, reason });
        let is_up = self.all_ready && self.is_running();
        let too_fast = is_up && role == Role::Serving && self.groups[group].count_death(turn.now);
        let end = ProcessEnd { index, role, process, exit: None, cause: why.clone(), too_fast };
        let verdict = if is_up { self.judge(&end, turn) } else { Verdict::FailPool(why.clone()) };
        self.carry_out(verdict, index, turn);
        self.fail_waiting(&end, &why, turn);
    }

    /// Applies the [`RestartPolicy`](crate::supervise::RestartPolicy), the strictest rule first.
    fn judge(&mut self, end: &ProcessEnd, turn: &mut Turn<'_>) -> Verdict {
        let ProcessEnd { process, exit, cause, .. } = end;
        if end.role != Role::Serving {
            return Verdict::Gone;
        }
        let is_running = self.is_running();
        let worker = &mut self.workers[end.index];
        let group = &mut self.groups[worker.group];
        if !is_running || !group.wants(worker.rank) {
            return Verdict::Gone;
        }
        let (id, name, policy) = (worker.id, &group.spec.name, &group.spec.restart);
        // A process with a replacement ahead was not the last one in any case.
        if !policy.respawn.follows(*exit) && !worker.is_outdated(process) {
            let is_well = *exit == Some(ExitStatus::Code(0));
            worker.last_end = Some(if is_well { Ok(()) } else { Err(end.reason(id)) });
            return Verdict::Gone;
        }
        worker.count_death(process, policy, turn.now);
        let attempts = worker.failed_starts;
        // The others do without it.
        let may_fail = !group.spec.auxiliary;
        if may_fail && !self.all_ready && attempts >= policy.start_attempts {
            return Verdict::FailPool(format!(
                "worker {id} of group {name} failed {attempts} times before it was ready: {cause}"
            ));
        }
        if may_fail && end.too_fast && policy.exceeded == Exceeded::FailMaster {
            let (limit, window) = (policy.limit, policy.window);
            return Verdict::FailPool(format!(
                "more than {limit} deaths within {window:?} in group {name}, \
                 the last of worker {id}: {cause}"
            ));
        }
        if worker.replacement.is_some() || process.was_killed_for_a_job() {
            return Verdict::Retry(Duration::ZERO);
        }
        let nominal = group.delay(worker.early_deaths, turn.now);
        Verdict::Retry(turn.jitter.apply(nominal))
    }

    /// Returns whether no worker has a process or will get one, according to the policies alone.
    pub(super) fn is_exhausted(&self) -> bool {
        let mut wanted = self.main_workers().filter(|worker| self.wants(worker)).peekable();
        wanted.peek().is_some()
            && wanted.all(PoolWorker::is_finished)
            && self.main_workers().all(PoolWorker::is_removed)
            && !self.is_reloading()
    }

    /// Ends the pool after its last worker. The pool has failed if a worker has.
    pub(super) fn note_last_ends(&mut self, turn: &mut Turn<'_>) {
        let mut ends = self.workers.iter().filter_map(|worker| worker.last_end.as_ref());
        match ends.find_map(|end| end.as_ref().err()).cloned() {
            Some(reason) => self.fail(reason, turn),
            None => self.stop(turn.now),
        }
    }

    fn carry_out(&mut self, verdict: Verdict, index: usize, turn: &mut Turn<'_>) {
        match verdict {
            // Its successor is on the way already, or not wanted.
            Verdict::Retry(Duration::ZERO) | Verdict::Gone => {}
            Verdict::Retry(delay) => self.workers[index].due = Some(turn.now + delay),
            Verdict::FailPool(reason) => self.fail(reason, turn),
        }
    }

    /// Fails the requests that wait for the process.
    fn fail_waiting(&mut self, end: &ProcessEnd, why: &str, turn: &mut Turn<'_>) {
        let (index, process) = (end.index, &end.process);
        if end.role == Role::Draining || !self.is_running() {
            return;
        }
        self.note_failed_generation(process, why, turn);
        self.note_failed_change(index, process, why, turn);
        if !process.was_ready() && !self.workers[index].is_ready() {
            self.end_sizing(why, turn);
        }
        let worker = &self.workers[index];
        let is_outdated = worker
            .serving
            .as_ref()
            .is_some_and(|it| worker.is_outdated(it) || it.over_limit_since.is_some());
        if end.role == Role::Replacement && is_outdated && process.generation == worker.generation {
            let delay = self.groups[worker.group].spec.restart.max;
            let at = turn.now + turn.jitter.apply(delay);
            self.workers[index].retry_at = Some(at);
            self.note_failed_restoration(why, turn);
        }
    }
}

impl ProcessEnd {
    /// Returns the reason of the worker's end as a text.
    fn reason(&self, id: WorkerId) -> String {
        let when = match (self.process.was_ready(), self.process.is_proven) {
            (false, _) => " before it was ready",
            (true, false) => " within its canary time",
            (true, true) => "",
        };
        format!("worker {id} ended{when}: {}", self.cause)
    }
}
