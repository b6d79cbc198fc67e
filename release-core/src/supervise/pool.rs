//! The pool: desired state, present state, and the steps between both.

mod changes;
mod deaths;
mod events;
mod load;
#[cfg(test)]
mod reference;
mod rest;
mod roster;
pub(super) mod snapshot;
mod underway;

use std::time::Duration;

use super::group::PoolGroup;
use super::jitter::Jitter;
use super::policy::LONGEST;
use super::process::PoolProcess;
use super::turn::Turn;
use super::worker::PoolWorker;
use super::{
    Action, Event, GroupSpec, KillReason, Moment, Outcome, Report, RequestId, State, Usage,
    WorkerId, WorkerStatus,
};
use rest::Course;
use roster::Roster;
use underway::{Rollout, Shortage, Upgrade};

/// Decides which processes run: takes events and returns actions. See its [guarantees](super).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::{Action, Event, GroupSpec, Moment, Pool};
///
/// // A pool without workers has started at once.
/// let mut pool = Pool::new(vec![GroupSpec::new("web", 0)], Duration::from_secs(10), 42);
/// let mut actions = Vec::new();
/// pool.on(Event::Start, Moment::START, &mut actions);
/// assert_eq!(actions, [Action::AllReady]);
/// ```
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Pool {
    groups: Vec<PoolGroup>,
    workers: Roster,
    /// Course in which the resting workers rest.
    course: Course,
    mode: Goal,
    /// Generation that serves or is being restored.
    generation: u32,
    /// Number of the latest generation that was started.
    latest: u32,
    /// The reload in progress.
    rollout: Option<Rollout>,
    /// Requests for a reload that arrived since then.
    reloads: Vec<RequestId>,
    upgrade: Upgrade,
    shortage: Shortage,
    /// Whether every worker has been ready once.
    all_ready: bool,
    /// Reason of the failure, once the pool fails.
    failure: Option<String>,
    /// Whether the pool was told to stop at once.
    is_forced: bool,
    /// Number of processes killed since the stop began.
    killed: usize,
    stop_deadline: Duration,
    jitter: Jitter,
    /// Time of the latest event.
    time: Moment,
    #[cfg(test)]
    reference: Option<Box<Self>>,
}

/// Desired state of all workers together.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Goal {
    /// Not started.
    Idle,
    /// Every worker must have a process.
    Running,
    /// No worker may have a process. Processes are asked to stop.
    Stopping { kill_at: Moment },
    /// No worker may have a process. Processes are killed.
    Killing(KillReason),
    /// No worker has a process, and this was reported.
    Done,
}

impl Pool {
    /// Creates a pool that does nothing before [`Event::Start`]. Its first generation is number 1.
    ///
    /// After a request to stop, a process has `stop_deadline` to exit. The `seed` decides the
    /// jitter of delays: the same seed and history yield the same actions.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{GroupSpec, Pool, WorkerId};
    ///
    /// let groups = vec![GroupSpec::new("web", 4), GroupSpec::new("mail", 1)];
    /// let pool = Pool::new(groups, Duration::from_secs(10), 42);
    /// assert_eq!(pool.group_of(WorkerId(4)), Some(1));
    /// ```
    #[must_use]
    pub fn new(groups: Vec<GroupSpec>, stop_deadline: Duration, seed: u64) -> Self {
        let mut pool = Self {
            groups: groups.into_iter().map(PoolGroup::new).collect(),
            workers: Roster::default(),
            course: Course::default(),
            mode: Goal::Idle,
            generation: 1,
            latest: 1,
            rollout: None,
            reloads: Vec::new(),
            upgrade: Upgrade::default(),
            shortage: Shortage::default(),
            all_ready: false,
            failure: None,
            is_forced: false,
            killed: 0,
            stop_deadline: stop_deadline.min(LONGEST),
            jitter: Jitter::new(seed),
            time: Moment::START,
            #[cfg(test)]
            reference: None,
        };
        for group in 0..pool.groups.len() {
            pool.add_workers(group);
        }
        pool
    }

    /// Processes an event and appends the resulting actions.
    ///
    /// Each call also processes everything that is due at `now`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{Action, Event, GroupSpec, Moment, Pool, WorkerId};
    ///
    /// let mut pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
    /// let mut actions = Vec::new();
    /// pool.on(Event::Start, Moment::START, &mut actions);
    /// assert_eq!(actions, [Action::Spawn { id: WorkerId(0), generation: 1 }]);
    /// ```
    pub fn on(&mut self, event: Event, now: Moment, actions: &mut Vec<Action>) {
        #[cfg(test)]
        let (expected, before) = (self.expect(&event, now), actions.len());
        self.process(event, now, actions);
        #[cfg(test)]
        self.is_as(expected, &actions[before..]);
    }

    fn process(&mut self, event: Event, now: Moment, actions: &mut Vec<Action>) {
        if let Goal::Stopping { kill_at } = self.mode
            && kill_at <= now
        {
            self.mode = Goal::Killing(KillReason::StopDeadline);
        }
        self.time = now;
        self.shortage.expire(now);
        let turn = &mut Turn::new(now, self.jitter, actions);
        self.note(event, turn);
        let was_rolling = self.is_rolling();
        self.converge(turn);
        self.conclude(turn);
        if was_rolling && !self.is_rolling() && self.is_running() {
            // Workers over a limit have waited for the reload, and groups may have new sizes.
            self.converge(turn);
        }
        self.jitter = turn.jitter;
        self.rest(now);
    }

    /// Returns the time of the next due step. Call [`Pool::on`] no later than that, with
    /// [`Event::Tick`] if nothing else happens.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{Event, GroupSpec, Moment, Pool, WorkerId};
    ///
    /// let mut pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
    /// assert_eq!(pool.deadline(), None);
    ///
    /// // A process must be ready within 30 seconds.
    /// pool.on(Event::Start, Moment::START, &mut Vec::new());
    /// pool.on(Event::Spawned { id: WorkerId(0), pid: 100 }, Moment::START, &mut Vec::new());
    /// assert_eq!(pool.deadline(), Some(Moment::START + Duration::from_secs(30)));
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self.mode {
            Goal::Idle | Goal::Killing(_) | Goal::Done => None,
            Goal::Running => {
                // Restarts that are due wait until the upgrade was refused, or happen in the new
                // version.
                match self.may_start() {
                    true => self.workers.timer().into_iter().chain(self.shortage.until()).min(),
                    false => self.workers.iter().filter_map(|worker| worker.timer(false)).min(),
                }
            }
            Goal::Stopping { kill_at } => {
                self.workers.iter().filter_map(|it| it.timer(true)).chain([kill_at]).min()
            }
        }
    }

    /// Returns the time of the latest event.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{Event, GroupSpec, Moment, Pool};
    ///
    /// let mut pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
    /// let now = Moment::START + Duration::from_secs(3);
    /// pool.on(Event::Start, now, &mut Vec::new());
    /// assert_eq!(pool.time(), now);
    /// ```
    #[must_use]
    pub fn time(&self) -> Moment {
        self.time
    }

    /// Returns the index of the worker's group, in the order given to [`Pool::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{GroupSpec, Pool, WorkerId};
    ///
    /// let groups = vec![GroupSpec::new("web", 2), GroupSpec::new("mail", 1)];
    /// let pool = Pool::new(groups, Duration::from_secs(10), 42);
    /// assert_eq!(pool.group_of(WorkerId(1)), Some(0));
    /// assert_eq!(pool.group_of(WorkerId(2)), Some(1));
    /// assert_eq!(pool.group_of(WorkerId(3)), None);
    /// ```
    #[must_use]
    pub fn group_of(&self, id: WorkerId) -> Option<usize> {
        Some(self.workers.get(self.index(id)?)?.group)
    }

    /// Returns the name of a worker's group, also of one that this version does not have.
    pub(crate) fn group_name(&self, id: WorkerId) -> &str {
        let group = self.group_of(id).and_then(|index| self.groups.get(index));
        group.map_or("", |group| &group.spec.name)
    }

    /// Returns the generation that serves. While another generation is started, this is still the
    /// previous one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// # world.run(Duration::from_secs(1));
    /// assert_eq!(world.pool().generation(), 1);
    /// world.change(Operation::Reload);
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.pool().generation(), 2);
    /// ```
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the number of the next generation.
    pub(crate) fn next_generation(&self) -> u32 {
        self.latest.saturating_add(1)
    }

    /// Returns the desired number of workers in a group, which is given by its index.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{GroupSpec, Pool};
    ///
    /// let pool = Pool::new(vec![GroupSpec::new("web", 4)], Duration::from_secs(10), 42);
    /// assert_eq!((pool.size(0), pool.size(1)), (Some(4), None));
    /// ```
    #[must_use]
    pub fn size(&self, group: usize) -> Option<u32> {
        Some(self.groups.get(group)?.spec.size)
    }

    /// Returns the status of all workers, in the order of their ids. A worker that was scaled away
    /// is included until its last process has exited.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{Event, GroupSpec, Moment, Pool, State, WorkerId};
    ///
    /// let mut pool = Pool::new(vec![GroupSpec::new("web", 2)], Duration::from_secs(10), 42);
    /// pool.on(Event::Start, Moment::START, &mut Vec::new());
    ///
    /// let workers = pool.status(Moment::START + Duration::from_secs(2));
    /// assert_eq!(workers.len(), 2);
    /// assert_eq!((workers[0].id, workers[0].state), (WorkerId(0), State::Starting));
    /// assert_eq!(workers[0].since, Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn status(&self, now: Moment) -> Vec<WorkerStatus<'_>> {
        let listed = self.workers.iter().filter(|it| self.wants(it) || !it.is_removed());
        let waits = |it: &PoolWorker| self.is_running() && self.waits_for_others(it.group);
        listed.map(|it| it.status(&self.groups[it.group].spec.name, waits(it), now)).collect()
    }

    /// Returns whether a process is expected to run: it was started and not asked to stop.
    pub(crate) fn relies_on(&self, id: WorkerId, pid: i32) -> bool {
        let worker = self.index(id).map(|index| &self.workers[index]);
        let mut processes = worker.into_iter().flat_map(PoolWorker::processes);
        processes.any(|process| process.pid() == Some(pid) && process.is_in_service())
    }

    /// Returns the state of a process.
    pub(crate) fn state_of(&self, id: WorkerId, pid: i32) -> Option<State> {
        let worker = &self.workers[self.index(id)?];
        let process = worker.processes().find(|process| process.pid() == Some(pid));
        process.map(PoolProcess::state)
    }

    /// Returns the state of a worker as far as the size of its group decides it: `Ready` while the
    /// worker is wanted, whatever its processes do, and `None` once it is unwanted and has no
    /// process.
    pub(crate) fn standing(&self, id: WorkerId) -> Option<State> {
        let worker = &self.workers[self.index(id)?];
        match self.wants(worker) {
            true => Some(State::Ready),
            false => (!worker.is_removed()).then_some(State::Stopping),
        }
    }

    /// Returns whether the size of the group includes the worker.
    #[cfg(test)]
    pub(crate) fn is_wanted(&self, id: WorkerId) -> bool {
        self.index(id).is_some_and(|index| self.wants(&self.workers[index]))
    }

    fn index(&self, id: WorkerId) -> Option<usize> {
        let index = usize::try_from(id.0).ok()?;
        (index < self.workers.len()).then_some(index)
    }

    fn wants(&self, worker: &PoolWorker) -> bool {
        self.groups[worker.group].wants(worker.rank)
    }

    /// Takes the next steps of every worker towards the desired state. A state without a step here
    /// is as desired, or waits for an event.
    fn converge(&mut self, turn: &mut Turn<'_>) {
        let own = turn.now + self.stop_deadline;
        let kill_at = match self.mode {
            // Processes that are asked late have until the common deadline. Extra time for one of
            // them is not for all.
            Goal::Stopping { kill_at } => own.min(kill_at),
            _ => own,
        };
        // A pool that stops has no new work to wait for.
        let leave_at = if self.is_running() { turn.now } else { turn.now + LONGEST };
        self.wake_due(turn.now);
        if self.is_running() {
            self.age(turn);
        }
        let target = self.target();
        for index in self.workers.awake() {
            let is_wanted = self.is_running() && self.wants(&self.workers[index]);
            let worker = &mut self.workers[index];
            let group = &self.groups[worker.group];
            let reload = &group.spec.reload;
            let (leaving, removal) = (reload.leaving, reload.longest_leaving());
            let mut killed = worker.kill_overdue(turn);
            if let Goal::Killing(reason) = &self.mode {
                killed += worker.kill(reason, turn);
            }
            if is_wanted {
                let is_tested =
                    target == Some(worker.generation) && group.is_tested(worker.generation);
                worker.replace_current(is_tested, leaving, turn.now);
            } else {
                worker.stop(removal, turn.now);
            }
            worker.terminate_leaving(leave_at, kill_at, turn);
            self.count_killed(killed);
        }
        if self.is_running() && self.may_start() {
            self.start_what_is_missing(turn);
        }
    }

    /// Processes the passing of time for wanted workers.
    fn age(&mut self, turn: &mut Turn<'_>) {
        let target = self.target();
        for index in self.workers.awake() {
            let worker = &mut self.workers[index];
            let group = &mut self.groups[worker.group];
            if group.wants(worker.rank) {
                worker.age(&group.spec, turn);
                if let Some(target) = target.filter(|target| worker.has_proven(*target))
                    && group.tested != target
                {
                    group.tested = target;
                    let group = worker.group;
                    self.workers.wake_group(group);
                }
            }
        }
    }

    /// Reports the initial start, the outcome of each operation and the outcome of the pool, each
    /// of them once.
    fn conclude(&mut self, turn: &mut Turn<'_>) {
        if self.is_running() && self.is_exhausted() {
            self.note_last_ends(turn);
        }
        match self.mode {
            Goal::Running => {
                if !self.all_ready && self.is_up() {
                    self.all_ready = true;
                    turn.act(Action::AllReady);
                }
                // A new generation brings its sizes: a restart of a worker that they remove must be
                // refused.
                self.conclude_rollout(turn);
                self.conclude_changes(turn);
                self.conclude_rollout(turn);
                self.advance_upgrade(turn);
                self.begin_rollout(turn);
            }
            Goal::Stopping { .. } | Goal::Killing(_) => {
                self.refuse_changes(turn);
                if self.workers.iter().all(PoolWorker::is_removed) {
                    self.mode = Goal::Done;
                    turn.act(Action::Done(self.outcome()));
                }
            }
            Goal::Idle | Goal::Done => {}
        }
    }

    /// Returns the workers with which the pool starts and ends.
    fn main_workers(&self) -> impl Iterator<Item = &PoolWorker> {
        self.workers.iter().filter(|worker| !self.groups[worker.group].spec.auxiliary)
    }

    /// Returns whether each of them that is wanted has been ready, or has ended for good.
    fn is_up(&self) -> bool {
        let mut wanted = self.main_workers().filter(|worker| self.wants(worker));
        wanted.all(|worker| worker.was_ready || worker.is_finished())
    }

    /// Returns the time that a process has to stop.
    #[cfg(feature = "http")]
    pub(crate) fn stop_deadline(&self) -> Duration {
        self.stop_deadline
    }

    /// Returns whether every worker has been ready.
    pub(crate) fn has_started(&self) -> bool {
        self.all_ready
    }

    /// Returns whether the pool was told to stop, or has failed.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.mode, Goal::Stopping { .. } | Goal::Killing(_) | Goal::Done)
    }

    /// Returns whether the pool was told to stop at once, whatever followed.
    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Returns the deadline of the processes while the pool stops in order.
    pub(crate) fn stops_by(&self) -> Option<Moment> {
        match self.mode {
            Goal::Stopping { kill_at } => Some(kill_at),
            Goal::Idle | Goal::Running | Goal::Killing(_) | Goal::Done => None,
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.mode, Goal::Running)
    }

    fn outcome(&mut self) -> Outcome {
        match (self.failure.take(), self.killed) {
            (Some(reason), _) => Outcome::Failed { reason },
            (None, 0) => Outcome::Stopped,
            (None, workers) => Outcome::Killed { workers },
        }
    }

    fn stop(&mut self, now: Moment) {
        // Processes that are about to exit keep the time that they were granted.
        let granted =
            self.workers.iter().flat_map(PoolWorker::processes).filter_map(PoolProcess::kill_at);
        let kill_at = granted.chain([now + self.stop_deadline]).max();
        self.mode = Goal::Stopping { kill_at: kill_at.unwrap_or(now) };
    }

    /// Stops, unless that is in progress, and keeps the first reason.
    fn fail(&mut self, reason: String, turn: &mut Turn<'_>) {
        if matches!(self.mode, Goal::Idle | Goal::Running) {
            self.stop(turn.now);
        }
        if self.failure.is_none() {
            self.failure = Some(reason.clone());
            turn.report(Report::Failing { reason });
        }
    }

    fn count_killed(&mut self, processes: usize) {
        if !self.is_running() {
            self.killed += processes;
        }
    }

    fn extend(&mut self, index: usize, pid: i32, time: Duration, turn: &mut Turn<'_>) {
        let (now, deadline) = (turn.now, self.stop_deadline);
        let worker = &mut self.workers[index];
        let (id, spec) = (worker.id, &self.groups[worker.group].spec);
        let Some(process) = worker.find(pid) else { return };
        let Some(until) = process.extend(time, spec, deadline, now) else { return };
        let (generation, time) = (process.generation, until - now);
        turn.report(Report::Extended { id, pid, generation, time });
        if let Goal::Stopping { kill_at } = &mut self.mode {
            // Each of the other processes is killed at its own deadline.
            *kill_at = until.max(*kill_at);
        }
    }

    fn backlog(&mut self, queued: &[(WorkerId, i32)], now: Moment) {
        for (id, pid) in queued {
            let Some(index) = self.index(*id) else { continue };
            let worker = &mut self.workers[index];
            let leaving = self.groups[worker.group].spec.reload.longest_leaving();
            worker.find(*pid).into_iter().for_each(|process| process.extend_leaving(leaving, now));
        }
    }

    fn measured(&mut self, usages: &[Usage], turn: &mut Turn<'_>) {
        for usage in usages {
            if let Some(index) = self.index(usage.id) {
                self.workers[index].measured(usage, turn);
            }
        }
    }
}
