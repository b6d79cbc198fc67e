//! Simulated processes: their launch, their scripted behaviour and their present state.

use std::time::Duration;

use crate::supervise::{ExitStatus, Hung, WorkerId};

/// Describes a process that is about to be started, for the script of a [`Simulation`](super::Simulation).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::GroupSpec;
/// use release_core::supervise::simulation::{Launch, Life, Simulation};
///
/// // The first process of each worker cannot be started. Worker 1 is slow.
/// let script = |launch: Launch| match launch {
///     Launch { before: 0 | 1, .. } => Life::impossible(),
///     Launch { id, .. } if id.0 == 1 => Life::good().ready_after(Duration::from_secs(5)),
///     _ => Life::good(),
/// };
/// let groups = vec![GroupSpec::new("web", 2)];
/// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
/// world.run(Duration::from_secs(1));
/// assert_eq!(world.processes().map(|process| process.is_ready).collect::<Vec<_>>(), [true, false]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Id of the worker.
    pub id: WorkerId,
    /// Generation of the process.
    pub generation: u32,
    /// Number of earlier attempts to start a process, of all workers.
    pub before: u32,
}

/// Describes the behaviour of a process.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::ExitStatus;
/// use release_core::supervise::simulation::Life;
///
/// let crashes = Life::good().dies_after(Duration::from_secs(30), ExitStatus::Code(1));
/// ```
#[derive(Clone, Debug)]
pub struct Life {
    pub(super) starts: bool,
    pub(super) is_short: bool,
    pub(super) ready: Option<Duration>,
    pub(super) death: Option<(Duration, ExitStatus)>,
    pub(super) stop: Option<Duration>,
    pub(super) hang: Option<(Duration, Hung)>,
}

impl Life {
    /// Returns a process that is ready after 50 ms, runs, and exits 50 ms after a request to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 4)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_millis(50));
    /// assert!(world.processes().all(|process| process.is_serving()));
    /// ```
    #[must_use]
    pub fn good() -> Self {
        let moment = Duration::from_millis(50);
        let (ready, stop) = (Some(moment), Some(moment));
        Self { starts: true, is_short: false, ready, death: None, stop, hang: None }
    }

    /// Returns a process that the system cannot start.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, State};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |_| Life::impossible();
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_millis(50));
    /// assert_eq!(world.status()[0].state, State::Waiting);
    /// ```
    #[must_use]
    pub fn impossible() -> Self {
        Self { starts: false, ..Self::good() }
    }

    /// Returns a process that cannot be started for a lack of descriptors, processes or memory.
    /// Operations wait for the end of such a shortage.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Operation};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |launch: release_core::supervise::simulation::Launch| match launch.generation {
    ///     2 => Life::scarce(),
    ///     _ => Life::good(),
    /// };
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(1));
    /// let reload = world.change(Operation::Reload);
    /// world.run(Duration::from_secs(10));
    /// assert_eq!(world.answer(reload), None);
    /// world.run(Duration::from_secs(60));
    /// assert!(world.answer(reload).is_some_and(|outcome| outcome.is_err()));
    /// ```
    #[must_use]
    pub fn scarce() -> Self {
        Self { is_short: true, ..Self::impossible() }
    }

    /// Sets the time from the start until the process is ready.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |_| Life::good().ready_after(Duration::from_secs(5));
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(4));
    /// assert_eq!(world.processes().filter(|process| process.is_ready).count(), 0);
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.processes().filter(|process| process.is_ready).count(), 1);
    /// ```
    #[must_use]
    pub fn ready_after(mut self, time: Duration) -> Self {
        self.ready = Some(time);
        self
    }

    /// Lets the process never become ready.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// // The master gives up after five attempts of 30 seconds.
    /// let script = |_| Life::good().never_ready();
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(200));
    /// assert_eq!(world.processes().count(), 0);
    /// ```
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.ready = None;
        self
    }

    /// Lets the process exit at this time after its start, whatever happens before.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{ExitStatus, GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |_| Life::good().dies_after(Duration::from_secs(30), ExitStatus::Code(1));
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(95));
    /// assert_eq!(world.status()[0].restarts, 3);
    /// ```
    #[must_use]
    pub fn dies_after(mut self, time: Duration, exit: ExitStatus) -> Self {
        self.death = Some((time, exit));
        self
    }

    /// Lets the process be found hanging at this time after its start.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{GroupSpec, Hung};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let silent = Hung::Silent(Duration::from_secs(10));
    /// let script = move |_| Life::good().hangs_after(Duration::from_secs(60), silent);
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(90));
    /// assert_eq!(world.status()[0].restarts, 1);
    /// ```
    #[must_use]
    pub fn hangs_after(mut self, time: Duration, how: Hung) -> Self {
        self.hang = Some((time, how));
        self
    }

    /// Sets the time from a request to stop until the process exits.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{Event, GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |_| Life::good().stops_after(Duration::from_secs(3));
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(1));
    /// world.tell(Event::Stop);
    /// world.run(Duration::from_secs(2));
    /// assert_eq!(world.processes().count(), 1);
    /// world.run(Duration::from_secs(1));
    /// assert_eq!(world.processes().count(), 0);
    /// ```
    #[must_use]
    pub fn stops_after(mut self, time: Duration) -> Self {
        self.stop = Some(time);
        self
    }

    /// Lets the process ignore requests to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{Action, Event, GroupSpec, Outcome};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// let script = |_| Life::good().never_stops();
    /// let mut world = Simulation::new(groups, Duration::from_secs(10), 42, script);
    /// world.run(Duration::from_secs(1));
    /// world.tell(Event::Stop);
    /// world.run(Duration::from_secs(10));
    /// let last = world.history().last().map(|(_, action)| action);
    /// assert_eq!(last, Some(&Action::Done(Outcome::Killed { workers: 1 })));
    /// ```
    #[must_use]
    pub fn never_stops(mut self) -> Self {
        self.stop = None;
        self
    }
}

/// A process that was started and has not been reaped.
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
/// let process = world.processes().next().expect("the worker has a process");
/// assert_eq!((process.id.0, process.generation), (0, 1));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Process {
    /// Id of the worker.
    pub id: WorkerId,
    /// Process id.
    pub pid: i32,
    /// Generation of the process.
    pub generation: u32,
    /// Whether it reported that it is ready.
    pub is_ready: bool,
    /// Whether it was asked to stop, or killed.
    pub is_stopping: bool,
    pub(super) stop: Option<Duration>,
}

impl Process {
    /// Returns whether the process is ready and was not asked to stop.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::supervise::simulation::{Life, Simulation};
    /// # use release_core::supervise::{Event, GroupSpec};
    /// # use std::time::Duration;
    /// # let groups = vec![GroupSpec::new("web", 1)];
    /// # let mut world = Simulation::new(groups, Duration::from_secs(10), 42, |_| Life::good());
    /// world.run(Duration::from_secs(1));
    /// assert!(world.processes().all(|process| process.is_serving()));
    /// world.tell(Event::Stop);
    /// assert!(!world.processes().any(|process| process.is_serving()));
    /// ```
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.is_ready && !self.is_stopping
    }
}
