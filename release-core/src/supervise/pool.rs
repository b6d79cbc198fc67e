//! The pool: which process is to run, and what is done about the difference.

mod deaths;

use std::time::{Duration, Instant};

use super::group::Group;
use super::jitter::Jitter;
use super::policy::LONGEST;
use super::worker::{Phase as P, Worker};
use super::{
    Action, Event, Event as E, GroupSpec, KillReason, Outcome, Report, WorkerId, WorkerStatus,
};

/// The supervisor's decisions: events in, actions out. See the [module](super) for its promises.
#[derive(Debug)]
pub struct Pool {
    groups: Vec<Group>,
    workers: Vec<Worker>,
    mode: Mode,
    /// Whether every worker has been ready once.
    all_ready: bool,
    /// Why the pool fails, once it does.
    failure: Option<String>,
    /// Workers killed since the pool is to stop.
    killed: usize,
    stop_deadline: Duration,
    jitter: Jitter,
}

/// What is wanted of all workers together.
#[derive(Debug)]
enum Mode {
    /// Not started.
    Idle,
    /// Every worker is to have a process.
    Running,
    /// No worker is to have one, in good order.
    Stopping { kill_at: Instant },
    /// No worker is to have one, now.
    Killing(KillReason),
    /// No worker has one, and that has been said.
    Done,
}

impl Pool {
    /// A pool of these groups that does nothing before [`Event::Start`].
    ///
    /// Workers have `stop_deadline` to end after they were asked to. The `seed` decides the jitter
    /// of the delays: the same seed and history give the same actions.
    #[must_use]
    pub fn new(groups: Vec<GroupSpec>, stop_deadline: Duration, seed: u64) -> Self {
        let members = groups.iter().zip(0..);
        let members = members.flat_map(|(spec, group)| (0..spec.size).map(move |_| group));
        let ids = (0..).map(WorkerId);
        Self {
            workers: ids.zip(members).map(|(id, g)| Worker::new(id, g)).collect(),
            groups: groups.into_iter().map(Group::new).collect(),
            mode: Mode::Idle,
            all_ready: false,
            failure: None,
            killed: 0,
            stop_deadline: stop_deadline.min(LONGEST),
            jitter: Jitter::new(seed),
        }
    }

    /// Takes note of an event and appends what is to be done about it.
    ///
    /// Every call also does what has become due at `now`.
    pub fn on(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        if let Mode::Stopping { kill_at } = self.mode
            && kill_at <= now
        {
            self.mode = Mode::Killing(KillReason::StopDeadline);
        }
        self.note(event, now, actions);
        self.converge(now, actions);
        self.conclude(actions);
    }

    /// When [`Pool::on`] must be called at the latest, with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.mode {
            Mode::Idle | Mode::Killing(_) | Mode::Done => None,
            Mode::Running => self.workers.iter().filter_map(Worker::timer).min(),
            Mode::Stopping { kill_at } => Some(kill_at),
        }
    }

    /// The index of the group, in the order given to [`Pool::new`], that a worker belongs to.
    #[must_use]
    pub fn group_of(&self, id: WorkerId) -> Option<usize> {
        Some(self.workers.get(self.index(id)?)?.group)
    }

    /// All workers, in the order of their ids.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<WorkerStatus<'_>> {
        let status = |worker: &Worker| WorkerStatus {
            id: worker.id,
            group: &self.groups[worker.group].spec.name,
            pid: worker.pid(),
            state: worker.state(),
            restarts: worker.restarts(),
            since: worker.since(now),
        };
        self.workers.iter().map(status).collect()
    }

    fn index(&self, id: WorkerId) -> Option<usize> {
        let index = usize::try_from(id.0).ok()?;
        (index < self.workers.len()).then_some(index)
    }

    /// Events that concern the pool: changes what is wanted.
    fn note(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match (&self.mode, event) {
            (Mode::Done, _) => {}
            (Mode::Idle, E::Start) => self.start(now),
            (Mode::Idle | Mode::Running, E::Stop) => self.stop(now),
            (Mode::Idle | Mode::Running | Mode::Stopping { .. }, E::StopNow) => {
                self.mode = Mode::Killing(KillReason::StopNow);
            }
            (_, E::Fail { reason }) => self.fail(reason, now, actions),
            (_, E::Start | E::Stop | E::StopNow | E::Tick) => {}
            (_, event) => self.note_worker(event, now, actions),
        }
    }

    /// Events that concern one worker: changes what is known of it. What is not in the table comes
    /// late, twice, or out of nowhere, and is ignored.
    fn note_worker(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        let Some((id, pid)) = subject(&event) else {
            return;
        };
        let Some(index) = self.index(id) else { return };
        let worker = &mut self.workers[index];
        let spec = &self.groups[worker.group].spec;
        match (&worker.phase, event) {
            (P::Spawning, E::Spawned { pid, .. }) => worker.spawned(pid, spec, now, actions),
            (P::Spawning, E::SpawnFailed { reason, .. }) => {
                self.spawn_failed(index, reason, now, actions);
            }
            // Of another process than the present one.
            _ if worker.pid() != pid => {}
            (P::Starting { .. }, E::Ready { .. }) => worker.ready(now, actions),
            (
                P::Starting { .. } | P::Ready { .. } | P::Stopping { .. },
                E::Violation { reason, .. },
            ) => self.kill(index, KillReason::Violation(reason), now, actions),
            (
                P::Starting { .. } | P::Ready { .. } | P::Stopping { .. } | P::Killed { .. },
                E::Exited { exit, .. },
            ) => self.exited(index, exit, now, actions),
            _ => {}
        }
    }

    /// Brings every worker one step nearer to what is wanted. What is not in the table is as it
    /// should be, or waits for news.
    fn converge(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            match (&self.mode, &worker.phase) {
                (Mode::Running, P::Waiting { until }) if *until <= now => {
                    worker.spawn(now, actions);
                }
                (Mode::Running, P::Starting { until, .. }) if *until <= now => {
                    let timeout = self.groups[worker.group].spec.policy.ready_timeout;
                    self.kill(index, KillReason::NotReady(timeout), now, actions);
                }
                (Mode::Stopping { .. } | Mode::Killing(_), P::Waiting { .. }) => {
                    worker.enter(P::Gone, now);
                }
                (Mode::Stopping { .. }, P::Starting { .. } | P::Ready { .. }) => {
                    worker.terminate(now, actions);
                }
                (
                    Mode::Killing(reason),
                    P::Starting { .. } | P::Ready { .. } | P::Stopping { .. },
                ) => {
                    let reason = reason.clone();
                    self.kill(index, reason, now, actions);
                }
                _ => {}
            }
        }
    }

    /// Says once that the initial start succeeded, and once how everything ended.
    fn conclude(&mut self, actions: &mut Vec<Action>) {
        match self.mode {
            Mode::Running if !self.all_ready && self.workers.iter().all(|w| w.was_ready) => {
                self.all_ready = true;
                actions.push(Action::AllReady);
            }
            Mode::Stopping { .. } | Mode::Killing(_)
                if self.workers.iter().all(|w| matches!(w.phase, P::Gone)) =>
            {
                self.mode = Mode::Done;
                actions.push(Action::Done(self.outcome()));
            }
            _ => {}
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.mode, Mode::Running)
    }

    fn outcome(&mut self) -> Outcome {
        match (self.failure.take(), self.killed) {
            (Some(reason), _) => Outcome::Failed { reason },
            (None, 0) => Outcome::Stopped,
            (None, workers) => Outcome::Killed { workers },
        }
    }

    fn start(&mut self, now: Instant) {
        self.mode = Mode::Running;
        for worker in &mut self.workers {
            worker.enter(P::Waiting { until: now }, now);
        }
    }

    fn stop(&mut self, now: Instant) {
        let kill_at = now + self.stop_deadline;
        self.mode = Mode::Stopping { kill_at };
    }

    /// Stops, unless that is under way, and remembers the first reason to.
    fn fail(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.mode, Mode::Idle | Mode::Running) {
            self.stop(now);
        }
        if self.failure.is_none() {
            self.failure = Some(reason.clone());
            actions.push(Action::Report(Report::Failing { reason }));
        }
    }

    fn kill(&mut self, index: usize, reason: KillReason, now: Instant, actions: &mut Vec<Action>) {
        self.workers[index].kill(reason, now, actions);
        if !self.is_running() {
            self.killed += 1;
        }
    }
}

/// The worker that an event is about, and the process if it has one.
fn subject(event: &Event) -> Option<(WorkerId, Option<i32>)> {
    match *event {
        Event::Spawned { id, pid }
        | Event::Ready { id, pid }
        | Event::Exited { id, pid, .. }
        | Event::Violation { id, pid, .. } => Some((id, Some(pid))),
        Event::SpawnFailed { id, .. } => Some((id, None)),
        Event::Start | Event::Stop | Event::StopNow | Event::Fail { .. } | Event::Tick => None,
    }
}
