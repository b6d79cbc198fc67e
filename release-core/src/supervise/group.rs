//! Groups of workers.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;
use super::{LifeLimits, ReloadPolicy, RequestId, RestartPolicy};

/// Describes a group: workers that run the same program with the same policies.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::{GroupSpec, Ready, RestartPolicy};
///
/// let group = GroupSpec::new("legacy", 2)
///     .ready(Ready::After(Duration::from_secs(1)))
///     .restart(RestartPolicy::default().healthy_after(Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Name, for logs and commands.
    pub name: String,
    /// Number of workers, possibly zero.
    pub size: u32,
    /// Policy for restarts.
    pub restart: RestartPolicy,
    /// Policy for replacement during a reload.
    pub reload: ReloadPolicy,
    /// Limits on the lifetime of a process.
    pub life: LifeLimits,
    /// How a process becomes ready.
    pub ready: Ready,
    /// Names of the groups whose workers must have been ready before the first start of this group.
    pub after: Vec<String>,
    /// Whether the group only serves the others, such as a status page: the pool starts and ends with
    /// the workers of the other groups.
    pub auxiliary: bool,
}

impl GroupSpec {
    /// Returns a group with the default policies, no limits and [`Ready::Message`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{GroupSpec, Ready};
    ///
    /// let group = GroupSpec::new("web", 4);
    /// assert_eq!((group.size, group.ready), (4, Ready::Message));
    /// ```
    #[must_use]
    pub fn new(name: impl Into<String>, size: u32) -> Self {
        Self {
            name: name.into(),
            size,
            restart: RestartPolicy::default(),
            reload: ReloadPolicy::default(),
            life: LifeLimits::default(),
            ready: Ready::Message,
            after: Vec::new(),
            auxiliary: false,
        }
    }

    /// Sets the policy for restarts.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{GroupSpec, RestartPolicy};
    ///
    /// let group = GroupSpec::new("web", 4).restart(RestartPolicy::default().start_attempts(1));
    /// ```
    #[must_use]
    pub fn restart(self, restart: RestartPolicy) -> Self {
        Self { restart, ..self }
    }

    /// Sets the policy for replacement during a reload.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{GroupSpec, ReloadPolicy};
    ///
    /// let group = GroupSpec::new("web", 4).reload(ReloadPolicy::default().surge(2));
    /// ```
    #[must_use]
    pub fn reload(self, reload: ReloadPolicy) -> Self {
        Self { reload, ..self }
    }

    /// Sets the limits on the lifetime of a process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{GroupSpec, LifeLimits};
    ///
    /// let group = GroupSpec::new("web", 4).life(LifeLimits::default().max_requests(10_000));
    /// ```
    #[must_use]
    pub fn life(self, life: LifeLimits) -> Self {
        Self { life, ..self }
    }

    /// Adds a group that must start first: workers of this group are not started before each worker of
    /// that one has been ready, or has ended and is not restarted. Only the start of the pool is in
    /// order; restarts and reloads are not.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::GroupSpec;
    ///
    /// let groups = [GroupSpec::new("database", 1), GroupSpec::new("web", 4).after("database")];
    /// ```
    #[must_use]
    pub fn after(mut self, group: impl Into<String>) -> Self {
        self.after.push(group.into());
        self
    }

    /// Sets how a process becomes ready.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{GroupSpec, Ready};
    ///
    /// let group = GroupSpec::new("web", 4).ready(Ready::AtOnce);
    /// ```
    #[must_use]
    pub fn ready(self, ready: Ready) -> Self {
        Self { ready, ..self }
    }
}

/// Selects how the pool learns that a process is ready.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::{GroupSpec, Ready};
///
/// let group = GroupSpec::new("web", 4).ready(Ready::After(Duration::from_secs(1)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// The process reports it: [`Event::Ready`](super::Event::Ready).
    Message,
    /// The process counts as ready when it was started. For programs that report nothing.
    AtOnce,
    /// The process counts as ready after it has run for this long. For programs that report nothing
    /// and may fail to start. The [ready timeout](RestartPolicy::ready_timeout) does not apply.
    After(Duration),
}

/// A group with its recent exits and its resize in progress.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PoolGroup {
    pub(super) spec: GroupSpec,
    pub(super) intensity: Intensity,
    /// Size in the latest configuration of the program.
    pub(super) configured: u32,
    /// The resize in progress.
    pub(super) resize: Option<Resize>,
    /// Latest generation with a proven process.
    pub(super) tested: u32,
    /// Whether this version of the program no longer has the group: its workers stop.
    pub(super) is_gone: bool,
    /// Whether the groups that start before it have started. A resize of them does not undo that.
    pub(super) has_begun: bool,
}

/// A change of a group's size.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Resize {
    pub(super) requests: Vec<RequestId>,
    /// Whether the reload in progress waits for it.
    pub(super) is_of_reload: bool,
    /// Size that is restored if a new worker fails.
    pub(super) before: u32,
    /// Configured size before the change.
    pub(super) configured: u32,
    /// Smallest size since then: workers from this rank on are new.
    pub(super) least: u32,
}

impl PoolGroup {
    /// Returns whether a caller, or the reload, waits for a change of its size.
    pub(super) fn is_awaited(&self) -> bool {
        let resize = self.resize.as_ref();
        resize.is_some_and(|resize| resize.is_of_reload || !resize.requests.is_empty())
    }

    pub(super) fn new(spec: GroupSpec) -> Self {
        Self {
            configured: spec.size,
            spec,
            intensity: Intensity::default(),
            resize: None,
            tested: 0,
            is_gone: false,
            has_begun: false,
        }
    }

    /// Returns the group of this name of an earlier version, which no operation can resize.
    pub(super) fn gone(name: String) -> Self {
        Self { is_gone: true, ..Self::new(GroupSpec::new(name, 0)) }
    }

    /// Returns whether workers of this generation may take over as soon as they are ready.
    pub(super) fn is_tested(&self, generation: u32) -> bool {
        self.tested >= generation
    }

    /// Counts the exit of a process. Returns true if it is the first in excess of the limit.
    pub(super) fn count_death(&mut self, now: Moment) -> bool {
        self.intensity.death(&self.spec.restart, now)
    }

    /// Returns whether the size includes a worker of this rank.
    pub(super) fn wants(&self, rank: u32) -> bool {
        rank < self.spec.size
    }

    /// Returns how many of its workers may be replaced at a time.
    pub(super) fn surge(&self) -> u32 {
        self.spec.reload.surge_of(self.spec.size)
    }

    /// Returns the delay of the next restart, before jitter.
    pub(super) fn delay(&mut self, early_deaths: u32, now: Moment) -> Duration {
        let policy = &self.spec.restart;
        if self.intensity.exceeded(policy, now) { policy.max } else { policy.delay(early_deaths) }
    }
}

/// Recent exits of a group, and whether they exceed the limit.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Intensity {
    pub(super) deaths: VecDeque<Moment>,
    pub(super) exceeded: bool,
}

impl Intensity {
    /// Counts an exit. Returns true for the first exit in excess of the limit, once per episode.
    pub(super) fn death(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let was_exceeded = self.exceeded(policy, now);
        self.deaths.push_back(now);
        if self.deaths.len() > policy.limit.saturating_add(1) {
            // The rule needs only one more than the limit.
            self.deaths.pop_front();
        }
        let too_many = self.deaths.len() > policy.limit;
        self.exceeded |= too_many;
        too_many && !was_exceeded
    }

    /// Returns whether the episode lasts. It ends at half of the limit. At the limit itself, a
    /// group that exits at exactly that rate would begin a new episode with each exit.
    pub(super) fn exceeded(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let recent = |at: &Moment| now - *at < policy.window;
        self.deaths.retain(recent);
        self.exceeded &= self.deaths.len() > policy.limit / 2;
        self.exceeded
    }
}
