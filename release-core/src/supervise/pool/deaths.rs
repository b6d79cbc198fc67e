//! What follows the end of a process, or of the attempt to start one.

use std::time::{Duration, Instant};

use super::{Pool, shortage};
use crate::supervise::process::Process;
use crate::supervise::worker::{Role, Worker};
use crate::supervise::{Action, Exceeded, Report, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// What becomes of a worker whose serving process has ended.
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

impl Pool {
    pub(super) fn spawn_failed(
        &mut self,
        index: usize,
        reason: String,
        is_short: bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(None, now) else { return };
        let policy = &self.groups[group].spec.restart;
        let is_borne = is_short && self.shortage.bears(policy, now);
        let verdict = match role {
            Role::Serving => self.judge(index, &process, None, &reason, false, now),
            Role::Replacement | Role::Draining => Verdict::Gone,
        };
        let retry_in = match role {
            Role::Replacement if is_borne => Some(shortage::PAUSE),
            _ => verdict.delay(),
        };
        let why = format!("worker {id} cannot be started: {reason}");
        actions.push(Action::Report(Report::SpawnFailed { id, reason, retry_in }));
        self.carry_out(verdict, index, now, actions);
        if !is_borne {
            self.blame(index, role, &process, &why, now, actions);
        }
    }

    pub(super) fn exited(
        &mut self,
        index: usize,
        pid: i32,
        exit: ExitStatus,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(Some(pid), now) else { return };
        let cause = process.cause(exit);
        // Deaths while the pool stops are what was asked for, and those of replacements are the
        // business of whoever wanted them.
        let follows = self.groups[group].spec.restart.respawn.follows(Some(exit));
        // One that serves and was about to end has said so of itself.
        let is_orderly = process.is_stopping() && exit == ExitStatus::Code(0);
        let counts = role == Role::Serving && self.is_running() && follows && !is_orderly;
        let too_fast = counts && self.groups[group].count_death(now);
        let verdict = match role {
            Role::Serving => self.judge(index, &process, Some(exit), &cause, too_fast, now),
            Role::Replacement | Role::Draining => Verdict::Gone,
        };
        let (generation, restart_in) = (process.generation, verdict.delay());
        actions.push(Action::Report(Report::Died { id, pid, generation, exit, restart_in }));
        if too_fast {
            let group = self.groups[group].spec.name.clone();
            actions.push(Action::Report(Report::TooFast { group }));
        }
        self.carry_out(verdict, index, now, actions);
        let why = obituary(id, &process, &cause);
        self.blame(index, role, &process, &why, now, actions);
    }

    /// A process that cannot be ended is out of the pool's hands.
    pub(super) fn unended(
        &mut self,
        index: usize,
        pid: i32,
        reason: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = &mut self.workers[index];
        let (id, group) = (worker.id, worker.group);
        let Some((role, process)) = worker.remove(Some(pid), now) else { return };
        let why = format!("process {pid} of worker {id} cannot be ended: {reason}");
        let generation = process.generation;
        actions.push(Action::Report(Report::LeftBehind { id, pid, generation, reason }));
        let verdict = match role {
            _ if !self.all_ready || !self.is_running() => Verdict::FailPool(why.clone()),
            Role::Serving => {
                let too_fast = self.groups[group].count_death(now);
                self.judge(index, &process, None, &why, too_fast, now)
            }
            Role::Replacement | Role::Draining => Verdict::Gone,
        };
        self.carry_out(verdict, index, now, actions);
        self.blame(index, role, &process, &why, now, actions);
    }

    /// The rules of the [`RestartPolicy`](crate::supervise::RestartPolicy), the strictest first.
    fn judge(
        &mut self,
        index: usize,
        process: &Process,
        exit: Option<ExitStatus>,
        cause: &str,
        too_fast: bool,
        now: Instant,
    ) -> Verdict {
        let is_running = self.is_running();
        let worker = &mut self.workers[index];
        let group = &mut self.groups[worker.group];
        if !is_running || !group.wants(worker.rank) {
            return Verdict::Gone;
        }
        let (id, name, policy) = (worker.id, &group.spec.name, &group.spec.restart);
        // One that was to be replaced was not the last in any case.
        if !policy.respawn.follows(exit) && !worker.is_outdated(process) {
            let is_well = exit == Some(ExitStatus::Code(0));
            worker.last_end =
                Some(if is_well { Ok(()) } else { Err(obituary(id, process, cause)) });
            return Verdict::Gone;
        }
        worker.count_death(process, policy, now);
        let attempts = worker.failed_starts;
        if !self.all_ready && attempts >= policy.start_attempts {
            return Verdict::FailPool(format!(
                "worker {id} of group {name} failed {attempts} times before it was ready: {cause}"
            ));
        }
        if too_fast && policy.exceeded == Exceeded::FailMaster {
            let (limit, window) = (policy.limit, policy.window);
            return Verdict::FailPool(format!(
                "more than {limit} deaths within {window:?} in group {name}, \
                 the last of worker {id}: {cause}"
            ));
        }
        if worker.replacement.is_some() {
            return Verdict::Retry(Duration::ZERO);
        }
        let nominal = group.delay(worker.early_deaths, now);
        Verdict::Retry(self.jitter.apply(nominal))
    }

    /// Whether no worker has a process or will get one, by the rules of its group alone.
    pub(super) fn is_exhausted(&self) -> bool {
        let mut wanted = self.workers.iter().filter(|worker| self.wants(worker)).peekable();
        wanted.peek().is_some()
            && wanted.all(Worker::is_over)
            && self.workers.iter().all(Worker::is_gone)
            && !self.is_reloading()
    }

    /// The pool ends with its last worker, and has failed if a worker has.
    pub(super) fn note_last_ends(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut ends = self.workers.iter().filter_map(|worker| worker.last_end.as_ref());
        match ends.find_map(|end| end.as_ref().err()).cloned() {
            Some(reason) => self.fail(reason, now, actions),
            None => self.stop(now),
        }
    }

    fn carry_out(
        &mut self,
        verdict: Verdict,
        index: usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match verdict {
            // What takes its place is on its way already, or not wanted.
            Verdict::Retry(Duration::ZERO) | Verdict::Gone => {}
            Verdict::Retry(delay) => self.workers[index].wait_until(now + delay),
            Verdict::FailPool(reason) => self.fail(reason, now, actions),
        }
    }

    /// Tells whoever waits for a process that it has failed.
    fn blame(
        &mut self,
        index: usize,
        role: Role,
        process: &Process,
        why: &str,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if role == Role::Draining || !self.is_running() {
            return;
        }
        self.note_failed_generation(process, why, now, actions);
        self.note_failed_change(index, process, why, actions);
        let worker = &self.workers[index];
        let is_outdated = worker
            .serving
            .as_ref()
            .is_some_and(|it| worker.is_outdated(it) || it.worn_since.is_some());
        if role == Role::Replacement && is_outdated && process.generation == worker.generation {
            let delay = self.groups[worker.group].spec.restart.max;
            let at = now + self.jitter.apply(delay);
            self.workers[index].retry_replacement(at);
            self.note_failed_restoration(why, actions);
        }
    }
}

fn obituary(id: WorkerId, process: &Process, cause: &str) -> String {
    let when = match (process.was_ready(), process.is_proven) {
        (false, _) => " before it was ready",
        (true, false) => " within its canary time",
        (true, true) => "",
    };
    format!("worker {id} ended{when}: {cause}")
}
