//! The rules by which workers are started again, given up, and replaced.

use std::time::Duration;

use crate::sys::exit_status::ExitStatus;

/// Longer than any master runs; keeps `now + duration` from overflowing.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A back-off of nothing would be a busy loop, a window of nothing would hold no death.
const SHORTEST: Duration = Duration::from_millis(1);

/// The rules by which the workers of a group are started again.
///
/// **Back-off.** A worker that dies after a healthy life is restarted at once, and so is one that dies
/// early for the first time. The `n`-th early death in a row, from the second on, is followed by a delay
/// of `initial * 2^(n-2)`, at most `max`. Each delay is shortened at random, to a half of it at the least,
/// so that workers that died together do not come back together. An exit with status 0 that nobody asked for is a death like any other, and a process
/// that could not be started counts as an early death. Which ends are the last is [`Respawn`].
///
/// **Intensity.** More than `limit` deaths in the group within `window` are too many; what follows
/// is [`Exceeded`].
///
/// **Initial start.** Until every worker of the pool has been ready once, a worker that fails
/// `start_attempts` times in a row before it is ready ends the master: a configuration that cannot
/// work is reported to the one who started it. Afterwards this rule does not apply.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::{Exceeded, RestartPolicy};
///
/// // A group whose workers must never flap: three deaths in a minute end the master.
/// let strict = RestartPolicy::default()
///     .intensity(2, Duration::from_secs(60))
///     .exceeded(Exceeded::FailMaster);
/// # let _ = strict;
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

/// What follows when the workers of a group die too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// Every restart in the group waits for the longest delay until the group has calmed down: at
    /// most half of `limit` deaths are left in the window.
    KeepTrying,
    /// The master stops the other workers and ends with an error.
    FailMaster,
}

/// Which workers are started again after a process of theirs has ended by itself.
///
/// A worker that is not stays without a process, until a [`Operation`](super::Operation) asks for one. When
/// no worker of the pool is left that has a process or will get one, the pool ends: it has failed
/// if the last process of some worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Respawn {
    /// All.
    #[default]
    Always,
    /// Those whose process ended in another way than with exit status 0.
    OnFailure,
    /// None.
    Never,
}

impl Respawn {
    /// Whether a process that ended like this is to have a successor; `None` is one that could not
    /// be started.
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
    /// The delay after the second early death in a row (default 200 ms), and the longest (default 5 s).
    /// Both are at least a millisecond.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.initial = initial.clamp(SHORTEST, LONGEST);
        self.max = max.clamp(SHORTEST, LONGEST);
        self
    }

    /// How long a worker must have been ready for its death not to count as early (default 10 s).
    #[must_use]
    pub fn healthy_after(mut self, life: Duration) -> Self {
        self.healthy_after = life;
        self
    }

    /// How many deaths in the group within `window` are tolerated (default 10 in 10 s). The
    /// window is at least a millisecond.
    #[must_use]
    pub fn intensity(mut self, limit: usize, window: Duration) -> Self {
        self.limit = limit;
        self.window = window.max(SHORTEST);
        self
    }

    /// What follows when there are more (default [`Exceeded::KeepTrying`]).
    #[must_use]
    pub fn exceeded(mut self, exceeded: Exceeded) -> Self {
        self.exceeded = exceeded;
        self
    }

    /// Which workers are started again at all (default [`Respawn::Always`]).
    #[must_use]
    pub fn respawn(mut self, respawn: Respawn) -> Self {
        self.respawn = respawn;
        self
    }

    /// How many times in a row a worker may be tried in the initial start (default 5, at least 1).
    #[must_use]
    pub fn start_attempts(mut self, attempts: u32) -> Self {
        self.start_attempts = attempts.max(1);
        self
    }

    /// How long a worker may take to become ready before it is killed (default 30 s); one that says
    /// that it needs more time ([`Event::Extend`](super::Event::Extend)), at most ten times that.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout.min(LONGEST);
        self
    }

    /// The nominal delay after so many early deaths in a row.
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

/// The rules by which the workers of a group get new processes while the old ones serve.
///
/// The first new process of a group must be ready, and have lived for the canary time, before its old
/// one is told to stop and others are started. Each of those must be ready before its old one is told to
/// stop. An old process then finishes what it has in hand, up to the master's stop deadline. No more than
/// `surge` workers of the group are in the middle of this at a time, so there are never
/// more processes than workers plus `surge`, those that finish aside.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::ReloadPolicy;
///
/// // Big workers: one at a time, none while another is still finishing, each watched for a while.
/// let careful = ReloadPolicy::default().surge(1).draining(1).canary(Duration::from_secs(5));
/// # let _ = careful;
/// ```
#[derive(Clone, Debug)]
pub struct ReloadPolicy {
    pub(super) surge: Option<u32>,
    pub(super) canary: Duration,
    pub(super) draining: usize,
    /// How long before it is told to stop a process is to get no new work.
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
    /// How many workers are replaced at a time, at least 1 (default: a quarter of the group).
    #[must_use]
    pub fn surge(mut self, workers: u32) -> Self {
        self.surge = Some(workers.max(1));
        self
    }

    /// How long the first new process of a reload must have been ready for its old one to be told to
    /// stop, and for others to follow (default 250 ms); the same for the new process of a restart. A
    /// readiness that is a time ([`Ready::After`](super::Ready::After)) counts: it has lived for that time.
    ///
    /// Any new process that ends within this time while the reload is under way is a failure of the whole
    /// reload.
    #[must_use]
    pub fn canary(mut self, time: Duration) -> Self {
        self.canary = time.min(LONGEST);
        self
    }

    /// How many earlier processes of a worker may be finishing at a time, at least 1 (default 2).
    /// With so many a further reload waits, for the stop deadline at most: no work is cut short to
    /// make room for it.
    #[must_use]
    pub fn draining(mut self, processes: usize) -> Self {
        self.draining = processes.max(1);
        self
    }

    /// How long a process that was ready gets no new work before it is told to stop. It does not apply
    /// when the whole pool stops.
    pub(crate) fn leaving(mut self, time: Duration) -> Self {
        self.leaving = time.min(LONGEST);
        self
    }

    /// [`leaving`](Self::leaving) for a process whose worker is scaled away: no other has its work.
    pub(crate) fn removal(mut self, time: Duration) -> Self {
        self.removal = time.min(LONGEST);
        self
    }

    /// How long a process is not told to stop that has got no new work for that long, but has some left.
    pub(super) fn lingering(&self) -> Duration {
        self.leaving.max(self.removal)
    }

    /// The surge of a group of this size.
    pub(super) fn surge_of(&self, size: u32) -> u32 {
        self.surge.unwrap_or_else(|| size.div_ceil(4)).max(1)
    }
}
