//! Simulation of a pool: no processes, a clock that jumps, and workers with scripted behaviour.
//!
//! Use it to test the consequences of your settings, thousands of hours in a second: the delays in
//! a crash loop, a reload whose new version hangs, or the lowest number of serving workers. The
//! same seed and script always yield the same history.
//!
//! # Examples
//!
//! The second generation crashes half a second after its start, which the canary time detects:
//!
//! ```
//! use std::time::Duration;
//! use release_core::supervise::simulation::{Life, Simulation};
//! use release_core::supervise::{ExitStatus, GroupSpec, Operation, ReloadPolicy};
//!
//! let reload = ReloadPolicy::default().surge(1).canary(Duration::from_secs(1));
//! let group = GroupSpec::new("web", 4).reload(reload);
//! let mut world = Simulation::new(vec![group], Duration::from_secs(10), 42, |launch| {
//!     match launch.generation {
//!         2 => Life::good().dies_after(Duration::from_millis(500), ExitStatus::Code(1)),
//!         _ => Life::good(),
//!     }
//! });
//! world.run(Duration::from_secs(60));
//!
//! let reload = world.change(Operation::Reload);
//! let mut fewest = 4;
//! while world.answer(reload).is_none() {
//!     world.step();
//!     fewest = fewest.min(world.processes().filter(|process| process.is_serving()).count());
//! }
//! let reason = world.answer(reload).and_then(|outcome| outcome.as_ref().err());
//! assert_eq!(reason.map(String::as_str), Some("worker 0 ended within its canary time: exit status 1"));
//! assert_eq!((fewest, world.pool().generation()), (4, 1));
//! ```

mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{
    Action, Event, ExitStatus, GroupSpec, Moment, Operation, Pool, RequestId, Signal, WorkerId,
    WorkerStatus,
};
pub use process::{Launch, Life, Process};

/// Runs a pool with a simulated clock and scripted processes. See the [module](self).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::GroupSpec;
/// use release_core::supervise::simulation::{Life, Simulation};
///
/// let groups = vec![GroupSpec::new("web", 4)];
/// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
/// world.run(Duration::from_secs(24 * 60 * 60));
/// assert!(world.status().iter().all(|worker| worker.restarts == 0));
/// ```
pub struct Simulation {
    pool: Pool,
    groups: Vec<GroupSpec>,
    /// Groups of the next version, if they differ.
    next_groups: Option<Vec<GroupSpec>>,
    stop_deadline: Duration,
    script: Box<dyn FnMut(Launch) -> Life>,
    now: Moment,
    /// Planned events in the order of time, and of their causes within the same moment.
    agenda: BTreeMap<(Moment, u32), Event>,
    processes: BTreeMap<i32, Process>,
    launched: u32,
    planned: u32,
    preparation: Result<Vec<Option<u32>>, String>,
    trial: Result<(), String>,
    /// Operations without an answer.
    asked: BTreeMap<RequestId, Operation>,
    answers: BTreeMap<RequestId, Result<(), String>>,
    requests: u64,
    history: Vec<(Duration, Action)>,
    /// Workers at the time of each success.
    #[cfg(test)]
    pub(super) at_ok: Vec<(RequestId, Vec<Seen>)>,
}

/// State of a wanted worker, for tests.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) id: WorkerId,
    pub(super) group: String,
    pub(super) pid: Option<i32>,
    pub(super) generation: u32,
    pub(super) state: super::State,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("time", &self.time())
            .field("pool", &self.pool)
            .field("processes", &self.processes)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// Creates a simulation and starts the pool as by [`Pool::new`]. The script is called for each
    /// process and decides its behaviour.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// // Every third process cannot be started.
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |launch| {
    ///     match launch.before % 3 {
    ///         2 => Life::impossible(),
    ///         _ => Life::good(),
    ///     }
    /// });
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.processes().count(), 1);
    /// ```
    #[must_use]
    pub fn new(
        groups: Vec<GroupSpec>,
        stop_deadline: Duration,
        seed: u64,
        script: impl FnMut(Launch) -> Life + 'static,
    ) -> Self {
        let mut world = Self {
            pool: Pool::new(groups.clone(), stop_deadline, seed),
            groups,
            next_groups: None,
            stop_deadline,
            script: Box::new(script),
            now: Moment::START,
            agenda: BTreeMap::new(),
            processes: BTreeMap::new(),
            launched: 0,
            planned: 0,
            preparation: Ok(Vec::new()),
            trial: Ok(()),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            requests: 0,
            history: Vec::new(),
            #[cfg(test)]
            at_ok: Vec::new(),
        };
        world.tell(Event::Start);
        world
    }

    /// Passes an event to the pool, at the present time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{Event, GroupSpec, WorkerId};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// let pid = world.processes().next().expect("the worker has a process").pid;
    /// let reason = "sent garbage".to_owned();
    /// world.tell(Event::Violation { id: WorkerId(0), pid, reason });
    /// world.run(Duration::from_secs(1));
    /// assert!(world.processes().all(|process| process.pid != pid));
    /// ```
    pub fn tell(&mut self, event: Event) {
        if let Event::Ready { pid, .. } = event {
            self.processes.get_mut(&pid).into_iter().for_each(|it| it.is_ready = true);
        }
        // A script may let a process exit more than once.
        if matches!(event, Event::Exited { pid, .. } if self.processes.remove(&pid).is_none()) {
            return;
        }
        let mut actions = Vec::new();
        self.pool.on(event, self.now, &mut actions);
        self.execute(actions);
    }

    /// Requests an operation. [`answer`](Self::answer) returns its outcome.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation, WorkerId};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// let restart = world.change(Operation::Restart { id: WorkerId(0) });
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.answer(restart), Some(&Ok(())));
    /// ```
    pub fn change(&mut self, change: Operation) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.asked.insert(request, change.clone());
        self.tell(Event::Change { request, change });
        request
    }

    /// Returns the outcome of an operation, or `None` while it is in progress.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation, WorkerId};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// let restart = world.change(Operation::Restart { id: WorkerId(7) });
    /// assert_eq!(world.answer(restart), Some(&Err("there is no worker 7".to_owned())));
    /// ```
    #[must_use]
    pub fn answer(&self, request: RequestId) -> Option<&Result<(), String>> {
        self.answers.get(&request)
    }

    /// Sets the answer to later [`Action::Prepare`] actions: the sizes of the groups as in
    /// [`Event::Prepared`], or an error that refuses the reload.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// world.prepare_with(Err("line 3: unknown key".to_owned()));
    /// let reload = world.change(Operation::Reload);
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.answer(reload), Some(&Err("line 3: unknown key".to_owned())));
    /// assert_eq!(world.pool().generation(), 1);
    /// ```
    pub fn prepare_with(&mut self, outcome: Result<Vec<Option<u32>>, String>) {
        self.preparation = outcome;
    }

    /// Sets the answer to later [`Action::TryUpgrade`] actions. An error refuses the upgrade.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// world.try_with(Err("cannot read the state".to_owned()));
    /// let upgrade = world.change(Operation::Upgrade);
    /// world.run(Duration::from_secs(1));
    /// assert!(world.answer(upgrade).is_some_and(|outcome| outcome.is_err()));
    /// ```
    pub fn try_with(&mut self, outcome: Result<(), String>) {
        self.trial = outcome;
    }

    /// Jumps to the next event and processes it. Returns false if there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let script = |_| Life::good();
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// while world.processes().all(|process| !process.is_ready) {
    ///     assert!(world.step(), "the worker is never ready");
    /// }
    /// assert_eq!(world.time(), Duration::from_millis(50));
    /// ```
    pub fn step(&mut self) -> bool {
        let deadline = self.pool.deadline();
        let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = next.into_iter().chain(deadline).min() else { return false };
        self.now = self.now.max(at);
        match self.agenda.first_entry() {
            Some(entry) if next == Some(at) => {
                let event = entry.remove();
                self.tell(event);
            }
            _ => self.tell(Event::Tick),
        }
        true
    }

    /// Sets the groups of the next version.
    #[cfg(test)]
    pub(super) fn next_version_has(&mut self, groups: Vec<GroupSpec>) {
        self.next_groups = Some(groups);
    }

    /// Returns whether this version still has the group of the worker.
    #[cfg(test)]
    pub(super) fn has_group_of(&self, id: WorkerId) -> bool {
        self.pool.group_of(id).is_some_and(|group| group < self.groups.len())
    }

    /// Returns the time of the next event.
    #[cfg(test)]
    pub(super) fn next(&self) -> Option<Duration> {
        let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let at = next.into_iter().chain(self.pool.deadline()).min()?;
        Some(at.max(self.now) - Moment::START)
    }

    /// Lets this time pass and processes every event in it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, State};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(3600));
    /// assert_eq!(world.time(), Duration::from_secs(3600));
    /// assert_eq!(world.status()[0].state, State::Ready);
    /// ```
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let is_near = |world: &Self| {
            let next = world.agenda.first_key_value().map(|((at, _), _)| *at);
            next.into_iter().chain(world.pool.deadline()).any(|at| at <= end)
        };
        while is_near(self) {
            self.step();
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    /// Returns the time since the start.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// assert_eq!(world.time(), Duration::ZERO);
    /// world.run(Duration::from_secs(5));
    /// assert_eq!(world.time(), Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn time(&self) -> Duration {
        self.now - Moment::START
    }

    /// Returns the present time of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Moment};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(5));
    /// assert_eq!(world.now(), Moment::START + Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Returns the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.pool().generation(), 1);
    /// assert_eq!(world.pool().size(0), Some(1));
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the present status of all workers, see [`Pool::status`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, State};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.status()[0].state, State::Ready);
    /// ```
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus<'_>> {
        self.pool.status(self.now)
    }

    /// Returns all processes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 2)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// world.change(Operation::Reload);
    /// // At no time are there more processes than workers plus the surge and draining processes.
    /// while world.step() {
    ///     assert!(world.processes().count() <= 4);
    /// #     if world.pool().generation() == 2 { break }
    /// }
    /// ```
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Returns all actions of the pool, each with its time since the start.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{Action, GroupSpec, WorkerId};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// let spawn = Action::Spawn { id: WorkerId(0), generation: 1 };
    /// assert_eq!(world.history().first(), Some(&(Duration::ZERO, spawn)));
    /// # world.run(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn history(&self) -> &[(Duration, Action)] {
        &self.history
    }

    fn execute(&mut self, actions: Vec<Action>) {
        #[cfg(test)]
        for action in &actions {
            if let Action::Answer { request, outcome: Ok(()) } = action {
                let wanted = self.status().into_iter().filter(|it| self.pool.is_wanted(it.id));
                let seen = wanted.map(|it| Seen {
                    id: it.id,
                    group: it.group.to_owned(),
                    pid: it.pid,
                    generation: it.generation,
                    state: it.state,
                });
                let seen = seen.collect();
                self.at_ok.push((*request, seen));
            }
        }
        for action in actions {
            self.history.push((self.time(), action.clone()));
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn { id, generation } => self.launch(id, generation),
            Action::Signal { id, pid, signal } => {
                let Some(process) = self.processes.get_mut(&pid) else { return };
                process.is_stopping = true;
                let end = match signal {
                    Signal::Terminate => process.stop.map(|time| (time, ExitStatus::Code(0))),
                    Signal::Kill => {
                        Some((Duration::ZERO, ExitStatus::Signal { number: 9, core: false }))
                    }
                };
                if let Some((time, exit)) = end {
                    self.plan(time, Event::Exited { id, pid, exit });
                }
            }
            Action::Prepare => {
                let outcome = self.preparation.clone();
                self.plan(Duration::ZERO, Event::Prepared(outcome));
            }
            Action::TryUpgrade => self.plan(Duration::ZERO, Event::Tried(self.trial.clone())),
            Action::Answer { request, outcome } => {
                self.asked.remove(&request);
                self.answers.insert(request, outcome);
            }
            Action::HandOver => self.take_over(),
            Action::Report(_) | Action::AllReady | Action::Done(_) => {}
        }
    }

    /// Replaces the pool with that of a new version, and repeats the requests that have no answer.
    fn take_over(&mut self) {
        if let Some(groups) = self.next_groups.take() {
            self.groups = groups;
        }
        let (snapshot, groups) = (self.pool.snapshot(self.now), self.groups.clone());
        let actions = match Pool::inherit(groups, &snapshot, self.stop_deadline, None) {
            Ok((pool, actions)) => {
                self.pool = pool;
                actions
            }
            Err(error) => {
                let reason = error.report();
                return self.plan(Duration::ZERO, Event::NotHandedOver { reason });
            }
        };
        self.execute(actions);
        self.tell(Event::Start);
        for (request, change) in self.asked.clone() {
            self.tell(match change {
                Operation::Upgrade => Event::Rejoin { request },
                change => Event::Change { request, change },
            });
        }
    }

    /// Lets the pool pass through a snapshot if no operation is in progress.
    #[cfg(test)]
    pub(super) fn restore(&mut self) {
        if self.pool.is_quiet() && !self.pool.is_upgrading() {
            let snapshot = self.pool.snapshot(self.now);
            let groups = self.groups.clone();
            self.pool = Pool::restore(groups, &snapshot, self.stop_deadline).unwrap();
        }
    }

    fn launch(&mut self, id: WorkerId, generation: u32) {
        let life = (self.script)(Launch { id, generation, before: self.launched });
        self.launched += 1;
        if !life.starts {
            let reason = "no more processes".to_owned();
            let is_short = life.is_short;
            return self.plan(Duration::ZERO, Event::SpawnFailed { id, reason, is_short });
        }
        let pid = i32::try_from(self.launched).unwrap_or(i32::MAX);
        let (is_ready, is_stopping, stop) = (false, false, life.stop);
        let process = Process { id, pid, generation, is_ready, is_stopping, stop };
        self.processes.insert(pid, process);
        self.plan(Duration::ZERO, Event::Spawned { id, pid });
        if let Some(time) = life.ready {
            self.plan(time, Event::Ready { id, pid });
        }
        if let Some((time, how)) = life.hang {
            self.plan(time, Event::Hung { id, pid, how });
        }
        if let Some((time, exit)) = life.death {
            self.plan(time, Event::Exited { id, pid, exit });
        }
    }

    fn plan(&mut self, time: Duration, event: Event) {
        self.planned += 1;
        self.agenda.insert((self.now + time, self.planned), event);
    }
}
