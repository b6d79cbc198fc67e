//! When a process is replaced although nothing is wrong with it.

use std::fmt;
use std::time::Duration;

use super::Moment;
use super::WorkerId;
use super::jitter::Jitter;
use super::policy::LONGEST;

/// How long the processes of a group live at most: by time, by work, by memory. No limits by default.
///
/// A process over a limit is replaced like one that somebody asked to restart: the new one must be
/// ready and proven before the old one is told to stop, and no more are replaced at a time than the
/// group's [`surge`](super::ReloadPolicy::surge). It is not a death for the
/// [`RestartPolicy`](super::RestartPolicy). During a reload nobody is replaced for a limit: the reload
/// does it, or it follows.
///
/// Every process has limits of its own, between nine tenths and the whole, at random, so that
/// processes that were started together do not end together.
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
/// # let _ = limits;
/// ```
#[derive(Clone, Debug, Default)]
pub struct LifeLimits {
    age: Option<Duration>,
    requests: Option<u64>,
    memory: Option<u64>,
}

impl LifeLimits {
    /// How long a process may be at work, from the moment that it is ready; at least a second.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.age = Some(age.clamp(Duration::from_secs(1), LONGEST));
        self
    }

    /// How many units of work a process may finish, at least 1: those that it marks with
    /// [`Me::begin_work`](crate::Me::begin_work). The master asks every second, so a busy process
    /// finishes some more.
    #[must_use]
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests.max(1));
        self
    }

    /// How many bytes of memory a process may have resident. The master looks every five seconds.
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

    /// The limits of one process.
    pub(super) fn draw(&self, jitter: &mut Jitter) -> Own {
        Own {
            age: self.age.map(|age| age - jitter.tenth(age)),
            requests: self.requests.map(|requests| requests - jitter.tenth_of(requests)),
            memory: self.memory.map(|memory| memory - jitter.tenth_of(memory)),
            expires: None,
        }
    }
}

/// The limits of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    pub(super) age: Option<Duration>,
    pub(super) requests: Option<u64>,
    pub(super) memory: Option<u64>,
    pub(super) expires: Option<Moment>,
}

impl Own {
    /// Its work begins.
    pub(super) fn begin(&mut self, now: Moment) {
        self.expires = self.age.map(|age| now + age);
    }

    /// When it is too old.
    pub(super) fn expires(&self) -> Option<Moment> {
        self.expires
    }

    /// Whether it is too old.
    pub(super) fn at(&self, now: Moment) -> Option<Excess> {
        let age = self.age.filter(|_| self.expires.is_some_and(|at| at <= now))?;
        Some(Excess::Age(age))
    }

    /// Whether it has used too much.
    pub(super) fn after(&self, usage: &Usage) -> Option<Excess> {
        let over = |used: Option<u64>, limit: Option<u64>| {
            let limit = limit?;
            used.filter(|used| *used >= limit)
        };
        let requests = over(usage.requests, self.requests).map(Excess::Requests);
        requests.or_else(|| over(usage.memory, self.memory).map(Excess::Memory))
    }
}

/// What a process has used; what was not measured is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)]
pub struct Usage {
    /// The worker.
    pub id: WorkerId,
    /// Its process.
    pub pid: i32,
    /// How many units of work it has finished.
    pub requests: Option<u64>,
    /// How many bytes of memory it has resident.
    pub memory: Option<u64>,
}

/// Which limit a process is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// It has been at work for so long.
    Age(Duration),
    /// It has finished so many units of work.
    Requests(u64),
    /// It has so many bytes of memory resident.
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
