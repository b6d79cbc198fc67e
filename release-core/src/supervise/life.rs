//! Limits on the lifetime of a process.

use std::fmt;
use std::time::Duration;

use super::Moment;
use super::WorkerId;
use super::jitter::Jitter;
use super::policy::LONGEST;

/// Limits how long the processes of a group live: by age, by requests or by memory. Without limits
/// by default.
///
/// A process that exceeds a limit is replaced as by
/// [`Operation::Restart`](super::Operation::Restart): the new process must be ready and proven
/// before the old one is asked to stop, and at most [`surge`](super::ReloadPolicy::surge) processes
/// of the group are replaced at a time. The replacement does not count as a failure for the
/// [`RestartPolicy`](super::RestartPolicy). During a reload no process is replaced for a limit,
/// because the reload does that or the replacement follows it.
///
/// Each process has its own limits, shortened at random by up to a tenth, so that processes that
/// were started together are not replaced together.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::LifeLimits;
///
/// // For a program that leaks a little.
/// let limits = LifeLimits::default()
///     .max_age(Duration::from_secs(24 * 60 * 60))
///     .max_memory(512 * 1024 * 1024);
/// ```
#[derive(Clone, Debug, Default)]
pub struct LifeLimits {
    age: Option<Duration>,
    requests: Option<u64>,
    memory: Option<u64>,
}

impl LifeLimits {
    /// Sets the maximum time since a process became ready, at least one second.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::LifeLimits;
    ///
    /// let daily = LifeLimits::default().max_age(Duration::from_secs(24 * 60 * 60));
    /// ```
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.age = Some(age.clamp(Duration::from_secs(1), LONGEST));
        self
    }

    /// Sets the maximum number of requests that a process may finish, at least 1. A process counts
    /// the requests that it marks with [`Me::begin_work`](crate::Me::begin_work). The master asks
    /// for the number once per second, so a busy process finishes some more.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::LifeLimits;
    ///
    /// let limits = LifeLimits::default().max_requests(100_000);
    /// ```
    #[must_use]
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests.max(1));
        self
    }

    /// Sets the maximum resident memory of a process, in bytes. The master checks it every five
    /// seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::LifeLimits;
    ///
    /// let limits = LifeLimits::default().max_memory(512 * 1024 * 1024);
    /// ```
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    pub(crate) fn counts_requests(&self) -> bool {
        self.requests.is_some()
    }

    pub(crate) fn weighs_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Returns the limits of one process.
    pub(super) fn draw(&self, jitter: &mut Jitter) -> ProcessLimits {
        ProcessLimits {
            age: self.age.map(|age| age - jitter.tenth(age)),
            requests: self.requests.map(|requests| requests - jitter.tenth_of(requests)),
            memory: self.memory.map(|memory| memory - jitter.tenth_of(memory)),
            expires: None,
        }
    }
}

/// Limits of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessLimits {
    pub(super) age: Option<Duration>,
    pub(super) requests: Option<u64>,
    pub(super) memory: Option<u64>,
    /// Time when the process reaches its maximum age.
    pub(super) expires: Option<Moment>,
}

impl ProcessLimits {
    /// Starts the measurement of the age: the process is ready.
    pub(super) fn begin(&mut self, now: Moment) {
        self.expires = self.age.map(|age| now + age);
    }

    /// Returns the excess if the process has reached its maximum age.
    pub(super) fn at(&self, now: Moment) -> Option<Excess> {
        let age = self.age.filter(|_| self.expires.is_some_and(|at| at <= now))?;
        Some(Excess::Age(age))
    }

    /// Returns the excess if the usage reaches another limit.
    pub(super) fn after(&self, usage: &Usage) -> Option<Excess> {
        let over = |used: Option<u64>, limit: Option<u64>| {
            let limit = limit?;
            used.filter(|used| *used >= limit)
        };
        let requests = over(usage.requests, self.requests).map(Excess::Requests);
        requests.or_else(|| over(usage.memory, self.memory).map(Excess::Memory))
    }
}

/// Resource usage of a process. A value that was not measured is `None`.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Event, Usage, WorkerId};
///
/// let usage = Usage::new(WorkerId(0), 100).requests(12_000);
/// let event = Event::Measured(vec![usage]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Id of the worker.
    pub id: WorkerId,
    /// Process id.
    pub pid: i32,
    /// Number of finished requests.
    pub requests: Option<u64>,
    /// Resident memory in bytes.
    pub memory: Option<u64>,
}

impl Usage {
    /// Returns the usage of a process of which nothing was measured.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{Usage, WorkerId};
    ///
    /// assert_eq!(Usage::new(WorkerId(0), 100).requests, None);
    /// ```
    #[must_use]
    pub fn new(id: WorkerId, pid: i32) -> Self {
        Self { id, pid, requests: None, memory: None }
    }

    /// Sets the number of finished requests.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{Usage, WorkerId};
    ///
    /// assert_eq!(Usage::new(WorkerId(0), 100).requests(7).requests, Some(7));
    /// ```
    #[must_use]
    pub fn requests(self, requests: u64) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// Sets the resident memory in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{Usage, WorkerId};
    ///
    /// assert_eq!(Usage::new(WorkerId(0), 100).memory(1 << 20).memory, Some(1 << 20));
    /// ```
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        Self { memory: Some(bytes), ..self }
    }
}

/// The limit that a process exceeds, with the measured value.
///
/// # Examples
///
/// ```
/// use release_core::supervise::Excess;
///
/// assert_eq!(Excess::Memory(2048).to_string(), "2 KiB of memory resident");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// Time since it became ready.
    Age(Duration),
    /// Number of finished requests.
    Requests(u64),
    /// Resident memory in bytes.
    Memory(u64),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(age) => write!(f, "at work for {age:.1?}"),
            Self::Requests(requests) => write!(f, "{requests} units of work finished"),
            Self::Memory(bytes) => write!(f, "{} KiB of memory resident", bytes / 1024),
        }
    }
}
