//! What the system is short of, and for how long changes wait for it.

use std::time::Duration;

use crate::supervise::Moment;
use crate::supervise::RestartPolicy;

/// How long no process is started beside another one after that has failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A failure that comes later than this is the first of another shortage.
const LULL: Duration = Duration::from_secs(10);

/// Descriptors, processes or memory are missing, which may be there again soon: the processes of the
/// change before are about to end, or those of somebody else.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// When it began, or let a process through, and when it was last noticed.
    times: Option<(Moment, Moment)>,
    /// Until when no process is started beside another one.
    until: Option<Moment>,
}

impl Shortage {
    /// It was noticed. Whether whoever wants a process waits: for as long in all as a process may take
    /// to become ready.
    pub(super) fn bears(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let lull = LULL.max(policy.max.saturating_mul(2));
        let times = self.times.filter(|(_, latest)| now - *latest <= lull);
        let (since, _) = times.unwrap_or((now, now));
        (self.times, self.until) = (Some((since, now)), Some(now + PAUSE));
        now - since < policy.ready_timeout
    }

    /// A process could be started.
    pub(super) fn relent(&mut self, now: Moment) {
        if let Some((since, _)) = &mut self.times {
            *since = now;
        }
    }

    pub(super) fn pass(&mut self, now: Moment) {
        self.until = self.until.filter(|until| now < *until);
    }

    pub(super) fn until(&self) -> Option<Moment> {
        self.until
    }
}
