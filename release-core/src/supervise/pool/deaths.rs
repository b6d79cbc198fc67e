//! What follows the end of a process, or of the attempt to start one.

use std::time::{Duration, Instant};

use super::Pool;
use crate::supervise::worker::Phase;
use crate::supervise::{Action, Exceeded, Exit, Report};

/// What becomes of a worker without a process.
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
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let verdict = self.judge(index, &reason, false, now);
        actions.push(Action::Report(Report::SpawnFailed {
            id: self.workers[index].id,
            reason,
            retry_in: verdict.delay(),
        }));
        self.carry_out(verdict, index, now, actions);
    }

    pub(super) fn exited(
        &mut self,
        index: usize,
        exit: Exit,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = &self.workers[index];
        let Some(pid) = worker.pid() else { return };
        let (id, cause) = (worker.id, worker.cause(exit));
        let group = worker.group;
        // Deaths while the pool stops are what was asked for.
        let too_fast = self.is_running() && self.groups[group].count_death(now);
        let verdict = self.judge(index, &cause, too_fast, now);
        actions.push(Action::Report(Report::Died { id, pid, exit, restart_in: verdict.delay() }));
        if too_fast {
            let group = self.groups[group].spec.name.clone();
            actions.push(Action::Report(Report::TooFast { group }));
        }
        self.carry_out(verdict, index, now, actions);
    }

    /// The rules of the [`RestartPolicy`](crate::supervise::RestartPolicy), the strictest first.
    fn judge(&mut self, index: usize, cause: &str, too_fast: bool, now: Instant) -> Verdict {
        if !self.is_running() {
            return Verdict::Gone;
        }
        let worker = &mut self.workers[index];
        let group = &mut self.groups[worker.group];
        let (id, name, policy) = (worker.id, &group.spec.name, &group.spec.policy);
        worker.count_death(policy, now);
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
        let nominal = group.delay(worker.early_deaths, now);
        Verdict::Retry(self.jitter.apply(nominal))
    }

    fn carry_out(
        &mut self,
        verdict: Verdict,
        index: usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let worker = &mut self.workers[index];
        match verdict {
            Verdict::Retry(delay) => worker.enter(Phase::Waiting { until: now + delay }, now),
            Verdict::FailPool(reason) => {
                worker.enter(Phase::Gone, now);
                self.fail(reason, now, actions);
            }
            Verdict::Gone => worker.enter(Phase::Gone, now),
        }
    }
}
