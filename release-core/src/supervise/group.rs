//! The groups that a pool consists of.

use std::time::{Duration, Instant};

use super::RestartPolicy;
use super::intensity::Intensity;

/// A number of workers that run the same program under the same rules.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct GroupSpec {
    /// The name for logs and commands.
    pub name: String,
    /// How many workers; none is legal.
    pub size: u32,
    /// When they are started again.
    pub policy: RestartPolicy,
    /// How they become ready.
    pub ready: Ready,
}

/// How the pool learns that a worker is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// The worker says so: [`Event::Ready`](super::Event::Ready).
    Message,
    /// A process is ready when it was started, for programs that say nothing.
    AtOnce,
}

/// A group and its deaths.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) spec: GroupSpec,
    intensity: Intensity,
}

impl Group {
    pub(super) fn new(spec: GroupSpec) -> Self {
        Self { spec, intensity: Intensity::default() }
    }

    /// Counts the death of a process. True when it is the one that makes too many.
    pub(super) fn count_death(&mut self, now: Instant) -> bool {
        self.intensity.death(&self.spec.policy, now)
    }

    /// The nominal delay before a worker is started again.
    pub(super) fn delay(&mut self, early_deaths: u32, now: Instant) -> Duration {
        let policy = &self.spec.policy;
        if self.intensity.exceeded(policy, now) { policy.max } else { policy.delay(early_deaths) }
    }
}
