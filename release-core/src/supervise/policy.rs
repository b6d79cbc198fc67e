//! Policies for restarts and for replacement.

use std::time::Duration;

use crate::sys::exit_status::ExitStatus;

/// Exceeds the lifetime of any master. Limits durations so that `now + duration` cannot overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Minimum of a back-off and of a window. A back-off of zero would be a busy loop, and a window of
/// zero would contain no exit.
const SHORTEST: Duration = Duration::from_millis(1);

/// Restart policy of a group of workers.
///
/// **Back-off.** A worker that was healthy is restarted immediately, and so is a worker after its
/// first early exit. After the `n`-th consecutive early exit, for `n` from 2, the restart is
/// delayed by `initial * 2^(n-2)`, capped at `max`. Each delay is shortened by a random factor
/// between 0.5 and 1 so that workers do not restart in lockstep. An unexpected exit counts as a
/// failure even with status 0, and so does a process that could not be spawned. Use [`Respawn`] to
/// change which exits lead to a restart.
///
/// **Intensity.** More than `limit` exits in the group within `window` are too many. [`Exceeded`]
/// decides the consequence.
///
/// **Initial start.** Until every worker of the pool has been ready once, a worker that fails
/// `start_attempts` times in a row before it is ready ends the master. So a configuration that
/// cannot work is reported at the start. Afterwards this rule does not apply.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::{Exceeded, RestartPolicy};
///
/// // A group whose workers must never flap: three exits in a minute end the master.
/// let strict = RestartPolicy::default()
///     .intensity(2, Duration::from_secs(60))
///     .exceeded(Exceeded::FailMaster);
/// ```
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    pub(super) initial: Duration,
    pub(super) max: Duration,
    pub(super) healthy_after: Duration,
    pub(super) limit: usize,
    pub(super) window: Duration,
    pub(super) exceeded: Exceeded,
    pub(super) respawn: Respawn,
    pub(super) start_attempts: u32,
    pub(super) ready_timeout: Duration,
}

/// Consequence when the workers of a group exit too often.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Exceeded, RestartPolicy};
///
/// let policy = RestartPolicy::default().exceeded(Exceeded::FailMaster);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// Delays every restart in the group by the maximum back-off until the group has calmed down:
    /// at most half of `limit` exits remain in the window.
    KeepTrying,
    /// Stops the other workers and ends the master with an error.
    FailMaster,
}

/// Selects the exits that lead to a restart.
///
/// A worker without a restart stays without a process until an [`Operation`](super::Operation)
/// requests one. When no worker of the pool has a process or will get one, the pool ends. Its
/// outcome is a failure if the last process of any worker failed.
///
/// # Examples
///
/// ```
/// use release_core::supervise::{Respawn, RestartPolicy};
///
/// // A worker that exits with status 0 has finished its work.
/// let batch = RestartPolicy::default().respawn(Respawn::OnFailure);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Respawn {
    /// Restarts after every exit.
    #[default]
    Always,
    /// Restarts after every exit except one with status 0.
    OnFailure,
    /// Never restarts.
    Never,
}

impl Respawn {
    /// Returns whether a restart follows this exit. `None` is a process that could not be spawned.
    pub(super) fn follows(self, exit: Option<ExitStatus>) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit != Some(ExitStatus::Code(0)),
            Self::Never => false,
        }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(5),
            healthy_after: Duration::from_secs(10),
            limit: 10,
            window: Duration::from_secs(10),
            exceeded: Exceeded::KeepTrying,
            respawn: Respawn::Always,
            start_attempts: 5,
            ready_timeout: Duration::from_secs(30),
        }
    }
}

impl RestartPolicy {
    /// Sets the delay after the second consecutive early exit (default 200 ms) and the maximum
    /// delay (default 5 s). Both are at least one millisecond.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::RestartPolicy;
    ///
    /// // 1 s, 2 s, 4 s and so on, up to a minute.
    /// let patient = RestartPolicy::default().backoff(Duration::from_secs(1), Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.initial = initial.clamp(SHORTEST, LONGEST);
        self.max = max.clamp(SHORTEST, LONGEST);
        self
    }

    /// Sets how long a worker must have been ready so that its exit does not count as early
    /// (default 10 s).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::RestartPolicy;
    ///
    /// let policy = RestartPolicy::default().healthy_after(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn healthy_after(mut self, life: Duration) -> Self {
        self.healthy_after = life;
        self
    }

    /// Sets how many exits in the group are tolerated within `window` (default 10 in 10 s). The
    /// window is at least one millisecond.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::RestartPolicy;
    ///
    /// let policy = RestartPolicy::default().intensity(3, Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn intensity(mut self, limit: usize, window: Duration) -> Self {
        self.limit = limit;
        self.window = window.max(SHORTEST);
        self
    }

    /// Sets the consequence of more exits than the [intensity](Self::intensity) tolerates (default
    /// [`Exceeded::KeepTrying`]).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{Exceeded, RestartPolicy};
    ///
    /// let policy = RestartPolicy::default().exceeded(Exceeded::FailMaster);
    /// ```
    #[must_use]
    pub fn exceeded(mut self, exceeded: Exceeded) -> Self {
        self.exceeded = exceeded;
        self
    }

    /// Sets which exits lead to a restart (default [`Respawn::Always`]).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::{Respawn, RestartPolicy};
    ///
    /// let once = RestartPolicy::default().respawn(Respawn::Never);
    /// ```
    #[must_use]
    pub fn respawn(mut self, respawn: Respawn) -> Self {
        self.respawn = respawn;
        self
    }

    /// Sets the maximum number of consecutive attempts to start a worker during the initial start
    /// (default 5, at least 1).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::RestartPolicy;
    ///
    /// // The first failure ends the master.
    /// let policy = RestartPolicy::default().start_attempts(1);
    /// ```
    #[must_use]
    pub fn start_attempts(mut self, attempts: u32) -> Self {
        self.start_attempts = attempts.max(1);
        self
    }

    /// Sets how long a worker may take to become ready before it is killed (default 30 s). A worker
    /// that requests more time ([`Event::Extend`](super::Event::Extend)) gets at most ten times
    /// that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::RestartPolicy;
    ///
    /// // Reading the cache takes a while.
    /// let policy = RestartPolicy::default().ready_timeout(Duration::from_secs(120));
    /// ```
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout.min(LONGEST);
        self
    }

    /// Returns the delay after this number of consecutive early exits, before jitter.
    pub(super) fn delay(&self, early_deaths: u32) -> Duration {
        match early_deaths.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 2_u32.saturating_pow(doublings);
                self.initial.saturating_mul(factor).min(self.max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let policy = RestartPolicy::default();
        let delays = [0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX].map(|n| policy.delay(n).as_millis());
        assert_eq!(delays, [0, 0, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn a_back_off_is_never_nothing_and_never_overflows() {
        let policy = RestartPolicy::default().backoff(Duration::ZERO, Duration::ZERO);
        assert_eq!(policy.delay(9), SHORTEST);
        let policy = RestartPolicy::default().backoff(Duration::MAX, Duration::MAX);
        assert_eq!(policy.delay(u32::MAX), LONGEST);
    }
}

/// Policy for replacing the workers of a group while the old ones serve.
///
/// The first new process of a group is its canary. It must be ready and stay so for the canary time
/// before its old process is asked to stop and other processes are started. Each of the others must
/// be ready before its old process is asked to stop. An old process then finishes its requests,
/// limited by the master's stop deadline. At most `surge` workers of the group are replaced at a
/// time. So the number of processes, without draining ones, never exceeds the number of
/// workers plus `surge`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::ReloadPolicy;
///
/// // Big workers: one at a time, none while another is still draining, each watched for a while.
/// let careful = ReloadPolicy::default().surge(1).draining(1).canary(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug)]
pub struct ReloadPolicy {
    pub(super) surge: Option<u32>,
    pub(super) canary: Duration,
    pub(super) draining: usize,
    /// Time without new work before a process is asked to stop.
    pub(super) leaving: Duration,
    /// The same for a process whose worker is scaled away.
    pub(super) removal: Duration,
}

impl Default for ReloadPolicy {
    fn default() -> Self {
        Self {
            surge: None,
            canary: Duration::from_millis(250),
            draining: 2,
            leaving: Duration::ZERO,
            removal: Duration::ZERO,
        }
    }
}

impl ReloadPolicy {
    /// Sets the maximum number of workers that are replaced at a time, at least 1 (default: a
    /// quarter of the group).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ReloadPolicy;
    ///
    /// let one_by_one = ReloadPolicy::default().surge(1);
    /// ```
    #[must_use]
    pub fn surge(mut self, workers: u32) -> Self {
        self.surge = Some(workers.max(1));
        self
    }

    /// Sets how long the first new process of a reload, or the new process of a restart, must have
    /// been ready before its old process is asked to stop and other processes follow (default 250
    /// ms). The time of [`Ready::After`](super::Ready::After) counts towards it.
    ///
    /// If any new process exits within this time while the reload is in progress, the whole reload
    /// fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::ReloadPolicy;
    ///
    /// let policy = ReloadPolicy::default().canary(Duration::from_secs(30));
    /// ```
    #[must_use]
    pub fn canary(mut self, time: Duration) -> Self {
        self.canary = time.min(LONGEST);
        self
    }

    /// Sets how many older processes of a worker may be draining at a time, at least 1 (default 2).
    /// A further reload waits until there are fewer, at most for the stop deadline: no request is
    /// cut short to make room for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ReloadPolicy;
    ///
    /// let policy = ReloadPolicy::default().draining(1);
    /// ```
    #[must_use]
    pub fn draining(mut self, processes: usize) -> Self {
        self.draining = processes.max(1);
        self
    }

    /// Sets how long a process that was ready gets no new work before it is asked to stop. Does not
    /// apply when the whole pool stops.
    pub(crate) fn leaving(mut self, time: Duration) -> Self {
        self.leaving = time.min(LONGEST);
        self
    }

    /// Sets [`leaving`](Self::leaving) for a process whose worker is scaled away: no other process
    /// takes over its work.
    pub(crate) fn removal(mut self, time: Duration) -> Self {
        self.removal = time.min(LONGEST);
        self
    }

    /// Returns how long a process is not asked to stop that gets no new work but has some left.
    pub(super) fn longest_leaving(&self) -> Duration {
        self.leaving.max(self.removal)
    }

    /// Returns the surge for a group of this size.
    pub(super) fn surge_of(&self, size: u32) -> u32 {
        self.surge.unwrap_or_else(|| size.div_ceil(4)).max(1)
    }
}
