//! Restarts, replacement and limits of the processes.

use std::time::Duration;

use super::Workers;
use crate::supervise::{LifeLimits, ReloadPolicy, RestartPolicy};

/// Bounds of a heartbeat: an executor has other tasks, and instants must not overflow.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(20);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl<W, C> Workers<W, C> {
    /// Sets when workers that die are restarted.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// Sets how the processes are replaced in a reload.
    #[must_use]
    pub fn reload(mut self, policy: ReloadPolicy) -> Self {
        self.reload = policy;
        self
    }

    /// Sets the limits of a process: by time, by requests and by memory.
    #[must_use]
    #[doc(alias = "max_requests")]
    pub fn life(mut self, limits: LifeLimits) -> Self {
        self.life = limits;
        self
    }

    /// Kills a worker that hangs, and restarts it under its [`restart`](Workers::restart) policy. A
    /// worker hangs if its executor has not answered the master for this time, because something blocks
    /// it, or if it has not finished a request ([`Me::begin_work`](crate::Me::begin_work)) for this
    /// time. There is no heartbeat by default; the minimum is 20 ms.
    ///
    /// The master sends at least four heartbeats in this time, so a hanging worker is found after one
    /// and a half times this time at the latest. Heartbeats are sent from the moment that the worker is
    /// ready until it is told to stop. An executor with several threads, such as async-std's, answers
    /// while one of them is free: requests in flight show blocked work on the others.
    ///
    /// A [`command`](Workers::command) reports unasked: from its `READY=1` on it must send `WATCHDOG=1`
    /// to its `NOTIFY_SOCKET` within this time, which `WATCHDOG_USEC` tells it, as systemd services do.
    /// This requires [`Readiness::Notify`](crate::Readiness::Notify).
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
