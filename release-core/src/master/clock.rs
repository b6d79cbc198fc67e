//! The pool's clock. A master may be held up itself, by a debugger or a machine without a processor to
//! spare: what its workers did meanwhile comes before what became due meanwhile.

use std::time::{Duration, Instant};

use crate::process::HELD_UP;

/// How long the news of that time may take to come in.
const NEWS_TIME: Duration = Duration::from_millis(500);

/// Stands still after the master was held up, until the news have come in, and goes on from there.
#[derive(Debug)]
pub(crate) struct Clock {
    /// What it said last.
    latest: Instant,
    /// Until when it stands still.
    until: Option<Instant>,
    /// How far it is behind.
    lost: Duration,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { latest: now, until: None, lost: Duration::ZERO }
    }

    /// What time it is for the pool.
    pub(crate) fn read(&mut self, now: Instant) -> Instant {
        match self.until {
            Some(until) if now < until => return self.latest,
            Some(_) => (self.lost, self.until) = (now.duration_since(self.latest), None),
            None => {}
        }
        self.latest = self.latest.max(now.checked_sub(self.lost).unwrap_or(now));
        self.latest
    }

    /// When this moment of the pool's is.
    pub(crate) fn real(&self, moment: Instant) -> Instant {
        moment + self.lost
    }

    /// When the supervisor is to look again, that has this deadline.
    pub(crate) fn deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        deadline.map(|deadline| self.until.unwrap_or(deadline))
    }

    /// Something that was due at this time is noticed now.
    pub(crate) fn noticed(&mut self, deadline: Instant, now: Instant) {
        if self.until.is_none() && deadline + HELD_UP < now {
            self.until = Some(now + NEWS_TIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_for_as_long_as_news_take() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut clock = Clock::new(start);
        clock.noticed(at(50), at(100));
        assert_eq!(clock.read(at(100)), at(100));
        clock.noticed(at(200), at(5000));
        assert_eq!(clock.read(at(5000)), at(100));
        assert_eq!(clock.deadline(Some(at(200))), Some(at(5500)));
        // Whatever is late by now is no reason to wait again.
        clock.noticed(at(200), at(5499));
        assert_eq!(clock.read(at(5499)), at(100));
        assert_eq!(clock.read(at(5500)), at(100));
        assert_eq!(clock.read(at(5600)), at(200));
        assert_eq!(clock.real(at(200)), at(5600));
        assert_eq!(clock.deadline(None), None);
    }
}
