//! Thousands of random histories of jobs and processes, checked against the promises.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cases::cases;

/// The kind of an event, its subject, and its details.
type Step = (u8, u8, u8);

#[derive(Debug)]
struct Known {
    rules: JobRules,
    /// The attempts that count, each with its process.
    attempts: Vec<ProcessId>,
    end: Option<JobEnd>,
    is_accepted: bool,
    has_begun: bool,
    is_cancelled: bool,
    /// The process of the last attempt, until that has ended or its process has.
    at: Option<ProcessId>,
}

#[derive(Debug, Default)]
struct World {
    jobs: BTreeMap<Number, Known>,
    /// Calls whose end the schedule has not been told.
    calls: BTreeSet<(Number, ProcessId)>,
    ready: BTreeSet<ProcessId>,
    alive: BTreeSet<ProcessId>,
    /// Processes with a job that hung, and processes that must be replaced.
    hung: BTreeSet<ProcessId>,
    replaced: BTreeSet<ProcessId>,
    lost: BTreeSet<ProcessId>,
    exits: BTreeMap<ProcessId, ExitStatus>,
    is_paused: bool,
    is_stopping: bool,
    pids: i32,
}

struct Simulation {
    schedule: Schedule,
    world: World,
    queue_limit: usize,
    per_worker: usize,
}

fn nth<T: Copy>(all: impl ExactSizeIterator<Item = T>, who: u8) -> Option<T> {
    let index = usize::from(who).checked_rem(all.len())?;
    let mut all = all;
    all.nth(index)
}

impl World {
    fn unbegun(&self) -> usize {
        let waits = |job: &&Known| {
            job.is_accepted && !job.has_begun && job.end.is_none() && !job.is_cancelled
        };
        self.jobs.values().filter(waits).count()
    }

    fn is_open(job: &Known) -> bool {
        job.end.is_none() && !job.is_cancelled
    }

    /// The jobs of this key that a process may be at, or that came before and have no outcome.
    fn blocks(&self, number: Number, key: u64) -> bool {
        self.jobs.iter().any(|(other, job)| {
            let is_earlier = *other < number && Self::is_open(job) && job.is_accepted;
            job.rules.key == Some(key) && *other != number && (is_earlier || job.at.is_some())
        })
    }

    fn started(&mut self, number: Number, process: ProcessId, per_worker: usize) {
        assert!(!self.is_paused && !self.is_stopping);
        assert!(self.ready.contains(&process) && !self.hung.contains(&process), "{process:?}");
        assert!(!self.lost.contains(&process) && !self.exits.contains_key(&process));
        let busy = self.calls.iter().filter(|(_, its)| *its == process).count();
        assert!(busy < per_worker, "{process:?} has {busy} jobs");
        let key = self.jobs[&number].rules.key;
        assert!(!key.is_some_and(|key| self.blocks(number, key)), "job {number} is out of turn");
        let job = self.jobs.get_mut(&number).unwrap();
        assert!(Self::is_open(job) && job.is_accepted && job.at.is_none(), "{number}: {job:?}");
        job.attempts.push(process);
        job.has_begun = true;
        assert!(job.attempts.len() <= job.rules.attempts.max(1) as usize, "{number}: {job:?}");
        job.at = Some(process);
        self.calls.insert((number, process));
    }

    fn ended(&mut self, number: Number, end: JobEnd) {
        let exits = &self.exits;
        let job = self.jobs.get_mut(&number).unwrap();
        assert!(Self::is_open(job), "{number} has two outcomes: {job:?}, {end:?}");
        match end {
            JobEnd::Crashed(exit) => {
                assert_eq!(exits.get(job.attempts.last().unwrap()), Some(&exit))
            }
            JobEnd::TimedOut => assert!(self.hung.contains(job.attempts.last().unwrap())),
            JobEnd::Stopping => assert!(self.is_stopping),
            JobEnd::Full => assert!(!job.rules.waits && !job.is_accepted),
            JobEnd::Replied => {}
        }
        if matches!(end, JobEnd::Crashed(_)) {
            assert!(self.is_stopping || job.attempts.len() == job.rules.attempts.max(1) as usize);
        }
        job.end = Some(end);
    }

    fn left(&mut self, number: Number) {
        self.jobs.get_mut(&number).unwrap().at = None;
    }
}

impl Simulation {
    fn new(queue_limit: usize, per_worker: usize) -> Self {
        let schedule = Schedule::new(queue_limit, per_worker, 7);
        Self { schedule, world: World::default(), queue_limit, per_worker }
    }

    fn apply(&mut self, actions: Vec<JobAction>) {
        for action in actions {
            let world = &mut self.world;
            match action {
                JobAction::Accept(number) => {
                    world.jobs.get_mut(&number).unwrap().is_accepted = true;
                    assert!(world.unbegun() <= self.queue_limit, "the queue is too long");
                }
                JobAction::Start(number, process) => {
                    world.started(number, process, self.per_worker)
                }
                JobAction::Abort(number) => {
                    world.calls.retain(|(its, _)| *its != number);
                    world.left(number);
                    self.free_dead();
                }
                JobAction::End(number, end) => world.ended(number, end),
                JobAction::Replace(process) => {
                    assert!(world.hung.contains(&process));
                    assert!(world.calls.iter().all(|(_, its)| *its != process), "it has more");
                    world.replaced.insert(process);
                }
                JobAction::Rest(process) => {
                    assert!(world.calls.iter().all(|(_, its)| *its != process), "it has more");
                }
            }
        }
        self.check();
    }

    /// No process is idle while a job could run in it, and the schedule counts as the world does.
    fn check(&self) {
        let world = &self.world;
        let mut begun: Vec<_> = world.calls.iter().map(|(number, _)| *number).collect();
        begun.dedup();
        assert!(self.schedule.in_hand() >= begun.len());
        for process in world.hung.iter().filter(|its| !world.exits.contains_key(its)) {
            let is_busy = world.calls.iter().any(|(_, its)| its == process);
            assert_eq!(world.replaced.contains(process), !is_busy, "{process:?} is to be replaced");
        }
        let has_room = |process: &ProcessId| {
            let sound = !world.hung.contains(process)
                && !world.lost.contains(process)
                && !world.exits.contains_key(process);
            sound && world.calls.iter().filter(|(_, its)| its == process).count() < self.per_worker
        };
        if world.is_paused || !world.ready.iter().any(has_room) {
            return;
        }
        for (number, job) in &world.jobs {
            // A full queue may have only jobs whose keys are taken.
            let has_place = job.is_accepted || world.unbegun() < self.queue_limit;
            let waits = World::is_open(job) && job.at.is_none() && has_place;
            let is_blocked = job.rules.key.is_some_and(|key| world.blocks(*number, key));
            assert!(!waits || is_blocked, "job {number} could run: {job:?}");
        }
    }

    fn submit(&mut self, key: u8, attempts: u8, waits: bool) {
        let key = Some(u64::from(key % 4)).filter(|key| *key > 0);
        let rules = JobRules { key, attempts: u32::from(attempts % 4), waits };
        let (number, mut out) = (self.schedule.reserve(), Vec::new());
        let is_full = self.world.unbegun() >= self.queue_limit;
        let known = Known {
            rules,
            attempts: Vec::new(),
            end: None,
            is_accepted: false,
            has_begun: false,
            is_cancelled: false,
            at: None,
        };
        self.world.jobs.insert(number, known);
        self.schedule.submit(number, rules, &mut out);
        let refused = out.contains(&JobAction::End(number, JobEnd::Full));
        assert_eq!(refused, is_full && !waits && !self.world.is_stopping);
        self.apply(out);
    }

    fn set_ready(&mut self) {
        let mut out = Vec::new();
        self.schedule.ready(&self.world.ready, &mut out);
        self.apply(out);
    }

    fn call_ends(&mut self, (number, process): (Number, ProcessId), how: Return) {
        let world = &mut self.world;
        world.calls.remove(&(number, process));
        match how {
            Return::Replied => world.left(number),
            Return::TimedOut => drop(world.hung.insert(process)),
            Return::Lost => drop(world.lost.insert(process)),
            Return::Unsent => {
                world.left(number);
                world.ready.remove(&process);
                world.jobs.get_mut(&number).unwrap().attempts.pop();
            }
        }
        self.free_dead();
        let mut out = Vec::new();
        self.schedule.returned(number, process, how, &mut out);
        self.apply(out);
    }

    /// A process that has exited is at nothing any more, when all its calls have ended.
    fn free_dead(&mut self) {
        let world = &mut self.world;
        let is_over = |process: &ProcessId| {
            world.exits.contains_key(process) && world.calls.iter().all(|(_, its)| its != process)
        };
        let over: Vec<_> =
            world.jobs.iter().filter(|(_, job)| job.at.as_ref().is_some_and(is_over)).collect();
        let over: Vec<_> = over.into_iter().map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| world.left(number));
    }

    fn exit(&mut self, process: ProcessId) {
        let status = ExitStatus::Code(process.1);
        self.world.alive.remove(&process);
        self.world.ready.remove(&process);
        self.world.exits.insert(process, status);
        self.free_dead();
        let mut out = Vec::new();
        self.schedule.exited(process, status, &mut out);
        self.apply(out);
    }

    fn cancel(&mut self, number: Number) {
        let job = self.world.jobs.get_mut(&number).unwrap();
        if job.end.is_some() || job.is_cancelled {
            return;
        }
        job.is_cancelled = true;
        let mut out = Vec::new();
        self.schedule.cancel(number, &mut out);
        self.apply(out);
    }

    fn step(&mut self, (kind, who, detail): Step) {
        let call = nth(self.world.calls.iter().copied(), who);
        match kind % 16 {
            0..4 => self.submit(detail, who, detail & 16 == 0),
            4 => {
                self.world.pids += 1;
                let process = (u32::from(who % 3), self.world.pids);
                self.world.alive.insert(process);
                self.world.ready.insert(process);
                self.set_ready();
            }
            5 => {
                let process = nth(self.world.ready.iter().copied(), who);
                process.map(|process| self.world.ready.remove(&process));
                self.set_ready();
            }
            6 => {
                let process = nth(self.world.alive.iter().copied(), who);
                process.into_iter().for_each(|process| self.exit(process));
            }
            7..10 => call.into_iter().for_each(|call| self.call_ends(call, Return::Replied)),
            10 => call.into_iter().for_each(|call| self.call_ends(call, Return::TimedOut)),
            11 => call.into_iter().for_each(|call| self.call_ends(call, Return::Lost)),
            12 => {
                let number = nth(self.world.jobs.keys().copied(), who);
                number.into_iter().for_each(|number| self.cancel(number));
            }
            13 if detail < 80 => {
                self.world.is_paused = !self.world.is_paused;
                let mut out = Vec::new();
                match self.world.is_paused {
                    true => self.schedule.pause(),
                    false => self.schedule.resume(&mut out),
                }
                self.apply(out);
            }
            14 if detail < 8 => {
                self.world.is_stopping = true;
                let mut out = Vec::new();
                self.schedule.stop(&mut out);
                self.apply(out);
            }
            15 => {
                let is_sound = |call: &(Number, ProcessId)| {
                    !self.world.hung.contains(&call.1) && !self.world.exits.contains_key(&call.1)
                };
                let call = call.filter(is_sound);
                call.into_iter().for_each(|call| self.call_ends(call, Return::Unsent));
            }
            _ => {}
        }
    }

    /// Every job has its outcome in the end.
    fn finish(mut self) {
        self.world.is_paused = false;
        let mut out = Vec::new();
        self.schedule.resume(&mut out);
        self.apply(out);
        for _ in 0..10_000 {
            while let Some(call) = self.world.calls.first().copied() {
                self.call_ends(call, Return::Replied);
            }
            let ill = self
                .world
                .alive
                .iter()
                .find(|its| self.world.hung.contains(its) || self.world.lost.contains(its));
            if let Some(ill) = ill.copied() {
                self.exit(ill);
            } else if self.world.jobs.values().any(World::is_open) {
                self.step((4, 0, 0));
            } else {
                break;
            }
        }
        for (number, job) in &self.world.jobs {
            assert!(!World::is_open(job), "job {number} has no outcome: {job:?}");
        }
        assert_eq!((self.schedule.in_hand(), self.schedule.unbegun), (0, 0));
        assert!(self.schedule.jobs.is_empty() && self.schedule.queued.is_empty());
        assert!(self.world.is_stopping || self.schedule.keys.is_empty());
        // A process whose job hung was replaced as soon as it had nothing else.
        let hung = self.world.hung.iter().filter(|its| !self.world.exits.contains_key(its));
        assert_eq!(hung.count(), 0);
    }
}

proptest! {
    #![proptest_config(cases(8_000))]

    #[test]
    fn each_job_has_one_outcome_in_any_history(
        queue_limit in 1_usize..6,
        per_worker in 1_usize..4,
        steps in vec(any::<Step>(), 0..120),
    ) {
        let mut simulation = Simulation::new(queue_limit, per_worker);
        steps.into_iter().for_each(|step| simulation.step(step));
        simulation.finish();
    }
}

/// A schedule with these ready processes.
fn with(processes: &[ProcessId], queue_limit: usize, per_worker: usize) -> Schedule {
    let mut schedule = Schedule::new(queue_limit, per_worker, 0);
    schedule.ready(&processes.iter().copied().collect(), &mut Vec::new());
    schedule
}

fn submit(schedule: &mut Schedule, rules: JobRules) -> Vec<JobAction> {
    let (number, mut out) = (schedule.reserve(), Vec::new());
    schedule.submit(number, rules, &mut out);
    out
}

const ONE: JobRules = JobRules { key: None, attempts: 1, waits: true };

#[test]
fn a_process_in_which_a_job_hangs_finishes_its_other_jobs_and_gets_no_new_one() {
    let (process, mut out) = ((0, 10), Vec::new());
    let mut schedule = with(&[process], 10, 2);
    for _ in 0..3 {
        submit(&mut schedule, ONE);
    }
    schedule.returned(0, process, Return::TimedOut, &mut out);
    assert_eq!(out, [JobAction::End(0, JobEnd::TimedOut)]);
    out.clear();
    schedule.returned(1, process, Return::Replied, &mut out);
    let end = JobAction::End(1, JobEnd::Replied);
    assert_eq!(out, [end, JobAction::Rest(process), JobAction::Replace(process)]);
    assert_eq!(schedule.waiting().collect::<Vec<_>>(), [2]);
}

#[test]
fn another_attempt_begins_when_the_process_of_the_last_one_has_exited() {
    let (first, second, mut out) = ((0, 10), (1, 11), Vec::new());
    let mut schedule = with(&[first, second], 10, 1);
    submit(&mut schedule, JobRules { attempts: 2, ..ONE });
    schedule.returned(0, first, Return::TimedOut, &mut out);
    assert_eq!(out, [JobAction::Rest(first), JobAction::Replace(first)]);
    assert_eq!(schedule.in_hand(), 1);
    out.clear();
    schedule.exited(first, ExitStatus::Code(1), &mut out);
    assert_eq!(out, [JobAction::Start(0, second)]);
}

#[test]
fn an_answer_that_was_on_its_way_counts_more_than_the_exit() {
    let (process, mut out) = ((0, 10), Vec::new());
    let mut schedule = with(&[process], 10, 1);
    submit(&mut schedule, ONE);
    schedule.exited(process, ExitStatus::Code(0), &mut out);
    assert_eq!(out, []);
    schedule.returned(0, process, Return::Replied, &mut out);
    assert_eq!(out, [JobAction::End(0, JobEnd::Replied), JobAction::Rest(process)]);
}

#[test]
fn only_the_process_of_a_job_reports_its_progress() {
    let (process, mut out) = ((0, 10), Vec::new());
    let mut schedule = with(&[process, (1, 11)], 10, 1);
    submit(&mut schedule, ONE);
    assert!(schedule.is_run_by(0, process));
    assert!(!schedule.is_run_by(0, (1, 11)) && !schedule.is_run_by(1, process));
    schedule.returned(0, process, Return::Replied, &mut out);
    assert!(!schedule.is_run_by(0, process));
}
