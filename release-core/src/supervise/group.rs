//! The groups that a pool consists of.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;
use super::{LifeLimits, ReloadPolicy, RequestId, RestartPolicy};

/// A number of workers that run the same program under the same rules.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct GroupSpec {
    /// The name for logs and commands.
    pub name: String,
    /// How many workers; none is legal.
    pub size: u32,
    /// When they are started again.
    pub restart: RestartPolicy,
    /// How they are replaced by another generation.
    pub reload: ReloadPolicy,
    /// When they are replaced because they have lived enough.
    pub life: LifeLimits,
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
    /// A process is ready when it has lived so long, for programs that say nothing and may fail to
    /// start: the [ready timeout](RestartPolicy::ready_timeout) does not apply.
    After(Duration),
}

/// A group and its deaths.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) spec: GroupSpec,
    pub(super) intensity: Intensity,
    /// The size that the program's configuration asked for last.
    pub(super) configured: u32,
    /// The change of its size that is under way.
    pub(super) resize: Option<Resize>,
    /// The latest generation of which a process has lived for the canary time.
    pub(super) tested: u32,
    /// Whether this version of the program does not have it any more: its workers end.
    pub(super) is_gone: bool,
}

/// A change of a group's size.
#[derive(Debug)]
pub(super) struct Resize {
    pub(super) requests: Vec<RequestId>,
    /// Whether the reload that is under way waits for it.
    pub(super) is_of_reload: bool,
    /// The size that the group goes back to when a new worker fails.
    pub(super) before: u32,
    /// The one that the configuration asked for until then.
    pub(super) configured: u32,
    /// The smallest size since then: workers from this rank on are new.
    pub(super) least: u32,
}

impl Group {
    pub(super) fn new(spec: GroupSpec) -> Self {
        Self {
            configured: spec.size,
            spec,
            intensity: Intensity::default(),
            resize: None,
            tested: 0,
            is_gone: false,
        }
    }

    /// The group of this name that an earlier version had: no change brings it back.
    pub(super) fn gone(name: String) -> Self {
        let spec = GroupSpec {
            name,
            size: 0,
            restart: RestartPolicy::default(),
            reload: ReloadPolicy::default(),
            life: LifeLimits::default(),
            ready: Ready::Message,
        };
        Self { is_gone: true, ..Self::new(spec) }
    }

    /// Whether workers of this generation may take over as soon as they are ready.
    pub(super) fn is_tested(&self, generation: u32) -> bool {
        self.tested >= generation
    }

    /// Counts the death of a process. True when it is the one that makes too many.
    pub(super) fn count_death(&mut self, now: Moment) -> bool {
        self.intensity.death(&self.spec.restart, now)
    }

    /// Whether a worker at this place is wanted.
    pub(super) fn wants(&self, rank: u32) -> bool {
        rank < self.spec.size
    }

    /// How many of its workers may be in the middle of a replacement.
    pub(super) fn surge(&self) -> u32 {
        self.spec.reload.surge_of(self.spec.size)
    }

    /// The nominal delay before a worker is started again.
    pub(super) fn delay(&mut self, early_deaths: u32, now: Moment) -> Duration {
        let policy = &self.spec.restart;
        if self.intensity.exceeded(policy, now) { policy.max } else { policy.delay(early_deaths) }
    }
}

/// The latest deaths of a group, and whether they were too many.
#[derive(Debug, Default)]
pub(super) struct Intensity {
    pub(super) deaths: VecDeque<Moment>,
    pub(super) exceeded: bool,
}

impl Intensity {
    /// Counts a death. True when it is the one that makes too many: once per episode.
    pub(super) fn death(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let was_exceeded = self.exceeded(policy, now);
        self.deaths.push_back(now);
        if self.deaths.len() > policy.limit.saturating_add(1) {
            // One more than the limit is all that the rule needs to know.
            self.deaths.pop_front();
        }
        let too_many = self.deaths.len() > policy.limit;
        self.exceeded |= too_many;
        too_many && !was_exceeded
    }

    /// Whether the episode lasts. It ends at half the limit, not at the limit, or a group that dies
    /// at just that rate would begin a new one with every death.
    pub(super) fn exceeded(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let recent = |at: &Moment| now - *at < policy.window;
        self.deaths.retain(recent);
        self.exceeded &= self.deaths.len() > policy.limit / 2;
        self.exceeded
    }
}
