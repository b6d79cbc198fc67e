//! When their processes are started again, replaced, or ended because they hang or have lived enough.

use std::time::Duration;

use super::Workers;
use crate::supervise::{LifeLimits, ReloadPolicy, RestartPolicy};

/// What a heartbeat may be: an executor has other things to do, and instants do not overflow.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(20);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl<W, C> Workers<W, C> {
    /// When workers that die are started again.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// How their processes are replaced when the master reloads.
    #[must_use]
    pub fn reload(mut self, policy: ReloadPolicy) -> Self {
        self.reload = policy;
        self
    }

    /// How long their processes live at most, by time, by work and by memory.
    #[must_use]
    #[doc(alias = "max_requests")]
    pub fn life(mut self, limits: LifeLimits) -> Self {
        self.life = limits;
        self
    }

    /// Kills a worker that hangs, and starts it again under its [`restart`](Workers::restart) policy:
    /// one whose executor has not answered the master for this time, because something blocks it, or
    /// that has not finished a unit of work ([`Me::begin_work`](crate::Me::begin_work)) for this time.
    /// None by default, and at least 20 ms.
    ///
    /// The master asks at least four times in this time, so what hangs is found after one and a half
    /// of it at the latest. It does so from the moment that the worker is ready until it is told to
    /// stop. An executor with several threads, such as that of async-std, answers as long as one of
    /// them is free: units of work show what hangs on the others.
    ///
    /// A [`command`](Workers::command) answers unasked: from its `READY=1` on it says `WATCHDOG=1` at its
    /// `NOTIFY_SOCKET` within this time, which `WATCHDOG_USEC` tells it, as systemd's services do. That
    /// needs [`Readiness::Notify`](crate::Readiness::Notify).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).heartbeat(Duration::from_secs(30));
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "watchdog")]
    pub fn heartbeat(mut self, timeout: Duration) -> Self {
        self.heartbeat = Some(timeout.clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT));
        self
    }
}
