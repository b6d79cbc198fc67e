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

mod life;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Moment;
use super::{Action, Event, GroupSpec, Operation, Pool, RequestId, WorkerId, WorkerStatus};

pub use life::{Launch, Life};

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
    preparation: Result<(), String>,
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
            preparation: Ok(()),
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
        match event {
            Event::Ready { pid, .. } => {
                self.processes.get_mut(&pid).into_iter().for_each(|it| it.is_ready = true);
            }
            // A script may let a process end more than once.
            Event::Exited { pid, .. } if self.processes.remove(&pid).is_none() => return,
            _ => {}
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

    /// How reloads are prepared from now on: an error refuses them.
    pub fn prepare_with(&mut self, outcome: Result<(), String>) {
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
}
