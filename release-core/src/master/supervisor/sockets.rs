//! Listening sockets that somebody has spoilt.

use std::os::fd::RawFd;
use std::time::Duration;

use super::{MasterEvent, Supervisor};
use crate::supervise::{Event, Operation};

/// How often workers are replaced at most that have a socket which cannot listen any more: the program
/// may be such that each of its processes shuts its own down.
const RENEW_EVERY: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Has listening sockets work again that somebody has shut down, and replaces the workers that have
    /// one for which another was opened.
    pub(super) fn look_at_sockets(&mut self, shut: &[RawFd]) -> Event {
        let outdated = self.processes.look_at_listeners(shut);
        if outdated.is_empty() || self.master.pool().is_stopping() {
            return Event::Tick;
        }
        let (now, rt, sender) = (self.rt.now(), self.rt.clone(), self.sender.clone());
        let again = self.renewed.map(|renewed| renewed + RENEW_EVERY).filter(|again| *again > now);
        // A reload replaces them, and goes on with those that have the new one.
        if again.is_none() && !self.master.pool().is_rolling() {
            self.renewed = Some(now);
            for id in outdated {
                let restart = self.requests.enter_signal(Operation::Restart { id });
                let _ = self.sender.unbounded_send(MasterEvent::Pool(restart));
            }
        }
        // One that takes over meanwhile may have the former, too.
        let again = again.unwrap_or(now + RENEW_EVERY);
        self.looking = Some(self.rt.spawn(async move {
            rt.sleep_until(again).await;
            let _ = sender.unbounded_send(MasterEvent::ShutDown(Vec::new()));
        }));
        Event::Tick
    }
}
