//! `Schedule`: decides which job runs where and when, without any clock, process or connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::sys::exit_status::ExitStatus;

/// The worker id and the pid of a process.
pub(super) type ProcessId = (u32, i32);

/// The number of a job. Later jobs have higher numbers.
pub(super) type Number = u64;

/// The rules of one job.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobRules {
    /// Jobs of one key run one after the other.
    pub(super) key: Option<u64>,
    pub(super) attempts: u32,
    /// Whether the job waits while the queue is full.
    pub(super) waits: bool,
}

/// A decision, to be carried out in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobAction {
    /// The job has a place in the queue.
    Accept(Number),
    Start(Number, ProcessId),
    /// The caller has given the running job up.
    Abort(Number),
    End(Number, JobEnd),
    /// A job has hung in the process, which has no other job in hand any more.
    Replace(ProcessId),
    /// The process has no job in hand any more.
    Rest(ProcessId),
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobEnd {
    /// The worker has answered or refused it.
    Replied,
    Crashed(ExitStatus),
    TimedOut,
    Stopping,
    Full,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    Replied,
    /// The connection has ended; the end of the process tells how.
    Lost,
    TimedOut,
    /// The connection had ended before: the attempt does not count.
    Unsent,
}

#[derive(Debug)]
struct Job {
    key: Option<u64>,
    attempts_left: u32,
    has_begun: bool,
    stage: JobStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobStage {
    /// The job waits for room in the queue.
    Outside,
    /// The job waits for an earlier job of its key.
    Parked,
    Queued,
    Running(ProcessId),
    /// The attempt has failed, but its process may still be at it.
    Held(ProcessId, Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Lost,
    TimedOut,
    /// The job has its outcome. Its key is free when the process has exited.
    Over,
}

/// A process that takes jobs, or still has some.
#[derive(Debug, Default)]
struct Hand {
    is_ready: bool,
    /// Whether a job has timed out here: the process gets no other one, and is replaced.
    has_hung: bool,
    has_lost: bool,
    running: BTreeSet<Number>,
    held: BTreeSet<Number>,
    exit: Option<ExitStatus>,
}

impl Hand {
    fn has_room(&self, per_worker: usize) -> bool {
        let is_sound = !self.has_hung && !self.has_lost && self.exit.is_none();
        self.is_ready && is_sound && self.running.len() < per_worker
    }
}

/// All jobs without an outcome, and the processes that run them.
///
/// A job has exactly one outcome. It runs in one process at a time: another attempt begins when the
/// process of the last one has exited.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) queue_limit: usize,
    pub(super) per_worker: usize,
    next: Number,
    jobs: BTreeMap<Number, Job>,
    outside: BTreeSet<Number>,
    /// Jobs that may start, in the order of submission.
    queued: BTreeSet<Number>,
    /// Each key that a job has, with the jobs that wait for it.
    keys: HashMap<u64, BTreeSet<Number>>,
    /// Number of jobs in the queue that have not begun yet.
    unbegun: usize,
    hands: BTreeMap<ProcessId, Hand>,
    is_paused: bool,
    is_stopping: bool,
}

impl Schedule {
    /// The first job gets the number `first`.
    pub(super) fn new(queue_limit: usize, per_worker: usize, first: Number) -> Self {
        Self {
            queue_limit: queue_limit.max(1),
            per_worker: per_worker.max(1),
            next: first,
            jobs: BTreeMap::new(),
            outside: BTreeSet::new(),
            queued: BTreeSet::new(),
            keys: HashMap::new(),
            unbegun: 0,
            hands: BTreeMap::new(),
            is_paused: false,
            is_stopping: false,
        }
    }

    /// Reserves the number of a job that is about to be submitted.
    pub(super) fn reserve(&mut self) -> Number {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn submit(&mut self, number: Number, rules: JobRules, out: &mut Vec<JobAction>) {
        let JobRules { key, attempts, waits } = rules;
        let has_room = self.unbegun < self.queue_limit && self.outside.is_empty();
        let refused = match (self.is_stopping, has_room || waits) {
            (true, _) => Some(JobEnd::Stopping),
            (false, false) => Some(JobEnd::Full),
            (false, true) => None,
        };
        if let Some(end) = refused {
            return out.push(JobAction::End(number, end));
        }
        let (attempts_left, stage) = (attempts.max(1), JobStage::Outside);
        self.jobs.insert(number, Job { key, attempts_left, has_begun: false, stage });
        self.outside.insert(number);
        self.advance(out);
    }

    /// Ends a job that nobody waits for any more.
    pub(super) fn cancel(&mut self, number: Number, out: &mut Vec<JobAction>) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let key = job.key;
        match job.stage {
            JobStage::Held(process, _) => {
                job.stage = JobStage::Held(process, Failure::Over);
                return;
            }
            JobStage::Outside => {
                self.outside.remove(&number);
            }
            JobStage::Parked => {
                if let Some(parked) = key.and_then(|key| self.keys.get_mut(&key)) {
                    parked.remove(&number);
                }
                self.unbegun -= 1;
            }
            JobStage::Queued => {
                self.unbegun -= usize::from(!job.has_begun);
                self.queued.remove(&number);
                self.free(key);
            }
            JobStage::Running(process) => {
                out.push(JobAction::Abort(number));
                self.take_back(number, process, out);
                self.free(key);
                self.settle_exit(process, out);
            }
        }
        self.jobs.remove(&number);
        self.advance(out);
    }

    /// An attempt has ended. An attempt that was given up before does not count.
    pub(super) fn returned(
        &mut self,
        number: Number,
        process: ProcessId,
        how: Return,
        out: &mut Vec<JobAction>,
    ) {
        let is_stopping = self.is_stopping;
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Some(hand) = self.hands.get_mut(&process) else { return };
        if job.stage != JobStage::Running(process) {
            return;
        }
        let key = job.key;
        match how {
            Return::Replied => {
                self.jobs.remove(&number);
                out.push(JobAction::End(number, JobEnd::Replied));
                self.free(key);
            }
            Return::Lost => {
                hand.has_lost = true;
                job.stage = JobStage::Held(process, Failure::Lost);
                hand.held.insert(number);
            }
            Return::TimedOut => {
                hand.has_hung = true;
                hand.held.insert(number);
                let is_last = job.attempts_left == 0 || is_stopping;
                let failure = if is_last { Failure::Over } else { Failure::TimedOut };
                job.stage = JobStage::Held(process, failure);
                out.extend(is_last.then_some(JobAction::End(number, JobEnd::TimedOut)));
            }
            Return::Unsent if is_stopping => {
                self.jobs.remove(&number);
                out.push(JobAction::End(number, JobEnd::Stopping));
            }
            Return::Unsent => {
                hand.is_ready = false;
                job.attempts_left += 1;
                job.stage = JobStage::Queued;
                self.queued.insert(number);
            }
        }
        self.take_back(number, process, out);
        self.settle_exit(process, out);
        self.advance(out);
    }

    /// These processes take jobs from now on, and no others.
    pub(super) fn ready(&mut self, ready: &BTreeSet<ProcessId>, out: &mut Vec<JobAction>) {
        for process in ready {
            self.hands.entry(*process).or_default();
        }
        self.hands.retain(|process, hand| {
            hand.is_ready = ready.contains(process);
            hand.is_ready || !hand.running.is_empty() || !hand.held.is_empty()
        });
        self.advance(out);
    }

    pub(super) fn exited(
        &mut self,
        process: ProcessId,
        exit: ExitStatus,
        out: &mut Vec<JobAction>,
    ) {
        if let Some(hand) = self.hands.get_mut(&process) {
            hand.exit = Some(exit);
            self.settle_exit(process, out);
            self.advance(out);
        }
    }

    /// Starts no job until [`Schedule::resume`].
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    pub(super) fn resume(&mut self, out: &mut Vec<JobAction>) {
        self.is_paused = false;
        self.advance(out);
    }

    /// Jobs in hand are finished. All others have their outcome now.
    pub(super) fn stop(&mut self, out: &mut Vec<JobAction>) {
        if std::mem::replace(&mut self.is_stopping, true) {
            return;
        }
        let waiting: Vec<_> = self.waiting().collect();
        for number in waiting {
            self.jobs.remove(&number);
            out.push(JobAction::End(number, JobEnd::Stopping));
        }
        self.outside.clear();
        self.queued.clear();
        self.unbegun = 0;
        self.keys.values_mut().for_each(BTreeSet::clear);
    }

    /// The jobs that run nowhere, in the order of submission.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Number> {
        let waits = |job: &Job| {
            matches!(job.stage, JobStage::Outside | JobStage::Parked | JobStage::Queued)
        };
        self.jobs.iter().filter(move |(_, job)| waits(job)).map(|(number, _)| *number)
    }

    /// Number of jobs that have begun and have no outcome, and do not wait for another attempt.
    pub(super) fn in_hand(&self) -> usize {
        let is_in_hand = |job: &&Job| {
            matches!(
                job.stage,
                JobStage::Running(_) | JobStage::Held(_, Failure::Lost | Failure::TimedOut)
            )
        };
        self.jobs.values().filter(is_in_hand).count()
    }

    pub(super) fn is_run_by(&self, number: Number, process: ProcessId) -> bool {
        self.jobs.get(&number).is_some_and(|job| job.stage == JobStage::Running(process))
    }

    pub(super) fn is_at_rest(&self, process: ProcessId) -> bool {
        self.hands.get(&process).is_none_or(|hand| hand.running.is_empty())
    }

    /// Takes the job out of the hand of its process.
    fn take_back(&mut self, number: Number, process: ProcessId, out: &mut Vec<JobAction>) {
        let Some(hand) = self.hands.get_mut(&process) else { return };
        hand.running.remove(&number);
        if hand.running.is_empty() {
            out.push(JobAction::Rest(process));
            out.extend(
                (hand.has_hung && hand.exit.is_none()).then_some(JobAction::Replace(process)),
            );
        }
    }

    /// Gives the jobs of a process that has exited another attempt or their outcome, once all its
    /// attempts have ended: an answer may still be on its way.
    fn settle_exit(&mut self, process: ProcessId, out: &mut Vec<JobAction>) {
        let Some(hand) = self.hands.get_mut(&process) else { return };
        let Some(exit) = hand.exit.filter(|_| hand.running.is_empty()) else { return };
        for number in std::mem::take(&mut hand.held) {
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            let JobStage::Held(_, failure) = job.stage else { continue };
            let end = match failure {
                Failure::Over => None,
                _ if job.attempts_left > 0 && !self.is_stopping => {
                    job.stage = JobStage::Queued;
                    self.queued.insert(number);
                    continue;
                }
                Failure::Lost => Some(JobEnd::Crashed(exit)),
                Failure::TimedOut => Some(JobEnd::TimedOut),
            };
            let key = job.key;
            self.jobs.remove(&number);
            out.extend(end.map(|end| JobAction::End(number, end)));
            self.free(key);
        }
        self.hands.remove(&process);
    }

    /// Lets the next job of the key start.
    fn free(&mut self, key: Option<u64>) {
        let Some(key) = key else { return };
        let next = self.keys.get_mut(&key).and_then(BTreeSet::pop_first);
        match next.and_then(|next| Some((next, self.jobs.get_mut(&next)?))) {
            Some((next, job)) => {
                job.stage = JobStage::Queued;
                self.queued.insert(next);
            }
            None => drop(self.keys.remove(&key)),
        }
    }

    /// Fills the queue, and the hands of the processes.
    fn advance(&mut self, out: &mut Vec<JobAction>) {
        loop {
            while self.unbegun < self.queue_limit
                && let Some(number) = self.outside.pop_first()
            {
                self.enter(number);
                out.push(JobAction::Accept(number));
            }
            let Some(process) = self.least_busy().filter(|_| !self.is_paused) else { return };
            let Some(number) = self.queued.pop_first() else { return };
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            self.unbegun -= usize::from(!std::mem::replace(&mut job.has_begun, true));
            job.attempts_left -= 1;
            job.stage = JobStage::Running(process);
            if let Some(hand) = self.hands.get_mut(&process) {
                hand.running.insert(number);
            }
            out.push(JobAction::Start(number, process));
        }
    }

    fn enter(&mut self, number: Number) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        self.unbegun += 1;
        let parked = job.key.and_then(|key| self.keys.get_mut(&key));
        match (job.key, parked) {
            (Some(_), Some(parked)) => {
                job.stage = JobStage::Parked;
                parked.insert(number);
                return;
            }
            (Some(key), None) => drop(self.keys.insert(key, BTreeSet::new())),
            (None, _) => {}
        }
        job.stage = JobStage::Queued;
        self.queued.insert(number);
    }

    fn least_busy(&self) -> Option<ProcessId> {
        let hands = self.hands.iter().filter(|(_, hand)| hand.has_room(self.per_worker));
        hands.min_by_key(|(_, hand)| hand.running.len()).map(|(process, _)| *process)
    }
}

#[cfg(test)]
mod tests;
