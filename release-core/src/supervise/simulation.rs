//! A world without processes: the pool, a clock that jumps, and workers that behave as scripted.
//!
//! For tests of what a daemon's settings lead to, thousands of hours in a second: how long a crash
//! loop waits, what a reload does when the new version hangs, how many workers serve at the worst
//! moment. The same seed and script always give the same history.
//!
//! # Examples
//!
//! The second generation crashes half a second after its start, and the canary time notices:
//!
//! ```
//! use std::time::Duration;
//! use release_core::supervise::simulation::{Life, Simulation};
//! use release_core::supervise::{
//!     Operation, ExitStatus, GroupSpec, LifeLimits, Ready, ReloadPolicy, RestartPolicy,
//! };
//!
//! let group = GroupSpec {
//!     name: "web".to_owned(),
//!     size: 4,
//!     restart: RestartPolicy::default(),
//!     reload: ReloadPolicy::default().surge(1).canary(Duration::from_secs(1)),
//!     life: LifeLimits::default(),
//!     ready: Ready::Message,
//! };
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

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{
    Action, Event, ExitStatus, GroupSpec, Hung, Moment, Operation, Pool, RequestId, Signal,
    WorkerId, WorkerStatus,
};

/// A process that is about to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// The worker.
    pub id: WorkerId,
    /// The generation of the process.
    pub generation: u32,
    /// How many processes the world has had before, whoever's they were.
    pub before: u32,
}

/// How a process behaves.
#[derive(Clone, Debug)]
pub struct Life {
    starts: bool,
    is_short: bool,
    ready: Option<Duration>,
    death: Option<(Duration, ExitStatus)>,
    stop: Option<Duration>,
    hang: Option<(Duration, Hung)>,
}

impl Life {
    /// It says ready after 50 ms, lives, and ends 50 ms after it was told to.
    #[must_use]
    pub fn good() -> Self {
        let moment = Duration::from_millis(50);
        let (ready, stop) = (Some(moment), Some(moment));
        Self { starts: true, is_short: false, ready, death: None, stop, hang: None }
    }

    /// The system refuses to start it.
    #[must_use]
    pub fn impossible() -> Self {
        Self { starts: false, ..Self::good() }
    }

    /// The system is too short of descriptors, processes or memory to start it.
    #[must_use]
    pub fn scarce() -> Self {
        Self { is_short: true, ..Self::impossible() }
    }

    /// It says ready so long after its start.
    #[must_use]
    pub fn ready_after(mut self, time: Duration) -> Self {
        self.ready = Some(time);
        self
    }

    /// It never says that it is ready.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.ready = None;
        self
    }

    /// It ends so long after its start, whatever it is told.
    #[must_use]
    pub fn dies_after(mut self, time: Duration, exit: ExitStatus) -> Self {
        self.death = Some((time, exit));
        self
    }

    /// It is found to hang so long after its start.
    #[must_use]
    pub fn hangs_after(mut self, time: Duration, how: Hung) -> Self {
        self.hang = Some((time, how));
        self
    }

    /// It ends so long after it was told to.
    #[must_use]
    pub fn stops_after(mut self, time: Duration) -> Self {
        self.stop = Some(time);
        self
    }

    /// It does not listen when it is told to stop.
    #[must_use]
    pub fn never_stops(mut self) -> Self {
        self.stop = None;
        self
    }
}

/// A process that was started and has not been reaped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Process {
    /// The worker.
    pub id: WorkerId,
    /// Its number.
    pub pid: i32,
    /// Its generation.
    pub generation: u32,
    /// Whether it has said that it is ready.
    pub is_ready: bool,
    /// Whether it was told to end, or killed.
    pub is_stopping: bool,
    stop: Option<Duration>,
}

impl Process {
    /// Whether it is at work: ready, and not told to end.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.is_ready && !self.is_stopping
    }
}

/// The pool in its world. See the [module](self).
pub struct Simulation {
    pool: Pool,
    groups: Vec<GroupSpec>,
    /// What the next version has instead.
    next_groups: Option<Vec<GroupSpec>>,
    stop_deadline: Duration,
    script: Box<dyn FnMut(Launch) -> Life>,
    now: Moment,
    /// What will happen, in order; what happens at the same moment, in the order of its causes.
    agenda: BTreeMap<(Moment, u32), Event>,
    processes: BTreeMap<i32, Process>,
    launched: u32,
    planned: u32,
    preparation: Result<Vec<Option<u32>>, String>,
    trial: Result<(), String>,
    /// The changes that have no answer yet.
    asked: BTreeMap<RequestId, Operation>,
    answers: BTreeMap<RequestId, Result<(), String>>,
    requests: u64,
    history: Vec<(Duration, Action)>,
    /// The workers at the moment of each "ok": which group, process, state and generation.
    #[cfg(test)]
    pub(super) at_ok: Vec<(RequestId, Vec<Seen>)>,
}

/// What a test wants to know of a worker that is wanted.
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
    /// A pool as of [`Pool::new`], that starts at once; the script says how each process behaves.
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

    /// Tells the pool, now.
    pub fn tell(&mut self, event: Event) {
        if let Event::Ready { pid, .. } = event {
            self.processes.get_mut(&pid).into_iter().for_each(|it| it.is_ready = true);
        }
        // A script may let a process end more than once.
        if matches!(event, Event::Exited { pid, .. } if self.processes.remove(&pid).is_none()) {
            return;
        }
        let mut actions = Vec::new();
        self.pool.on(event, self.now, &mut actions);
        self.obey(actions);
    }

    /// Asks for a change; [`answer`](Self::answer) says what became of it.
    pub fn change(&mut self, change: Operation) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.asked.insert(request, change.clone());
        self.tell(Event::Change { request, change });
        request
    }

    /// How a change ended, once it has.
    #[must_use]
    pub fn answer(&self, request: RequestId) -> Option<&Result<(), String>> {
        self.answers.get(&request)
    }

    /// How reloads are prepared from now on: with these sizes of the groups, see [`Event::Prepared`]; an
    /// error refuses them.
    pub fn prepare_with(&mut self, outcome: Result<Vec<Option<u32>>, String>) {
        self.preparation = outcome;
    }

    /// How new versions of the program do from now on when they are tried: an error refuses the
    /// upgrade.
    pub fn try_with(&mut self, outcome: Result<(), String>) {
        self.trial = outcome;
    }

    /// Jumps to the next moment at which something happens. False when nothing ever will.
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

    /// The next version of the program has these groups.
    #[cfg(test)]
    pub(super) fn next_version_has(&mut self, groups: Vec<GroupSpec>) {
        self.next_groups = Some(groups);
    }

    /// Whether this version of the program still has the worker's group.
    #[cfg(test)]
    pub(super) fn has_group_of(&self, id: WorkerId) -> bool {
        self.pool.group_of(id).is_some_and(|group| group < self.groups.len())
    }

    /// When something happens next.
    #[cfg(test)]
    pub(super) fn next(&self) -> Option<Duration> {
        let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
        let at = next.into_iter().chain(self.pool.deadline()).min()?;
        Some(at.max(self.now) - Moment::START)
    }

    /// Lets time pass, and everything happen that happens meanwhile.
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

    /// The time since the start.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.now - Moment::START
    }

    /// The moment that it is, as the pool counts it.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.now
    }

    /// The pool, to be looked at.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What the pool says of its workers.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus<'_>> {
        self.pool.status(self.now)
    }

    /// The processes that there are.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Everything that the pool asked for, each with the time since the start.
    #[must_use]
    pub fn history(&self) -> &[(Duration, Action)] {
        &self.history
    }

    fn obey(&mut self, actions: Vec<Action>) {
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

    /// The new version is the same with another pool. Whoever waits asks it again.
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
        self.obey(actions);
        self.tell(Event::Start);
        for (request, change) in self.asked.clone() {
            self.tell(match change {
                Operation::Upgrade => Event::Rejoin { request },
                change => Event::Change { request, change },
            });
        }
    }

    /// Lets the pool go through a snapshot, if no change is under way.
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
