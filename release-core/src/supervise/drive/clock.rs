//! The pool's clock. A master may be held up itself, by a debugger or a machine without a processor to
//! spare: what its workers did meanwhile comes before what became due meanwhile.

use std::time::{Duration, Instant};

/// Later than this nothing is noticed by a master that runs.
pub(crate) const HELD_UP: Duration = Duration::from_millis(100);

/// How long the news of that time may take to come in.
const NEWS_TIME: Duration = Duration::from_millis(500);

/// Stands still after the master was held up, until the news have come in.
#[derive(Debug)]
pub(super) struct Clock {
    /// What it says while it stands still.
    latest: Instant,
    /// Until when it does.
    until: Option<Instant>,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self { latest: now, until: None }
    }

    /// What time it is for the pool.
    pub(super) fn read(&mut self, now: Instant) -> Instant {
        if self.until.is_none_or(|until| until <= now) {
            (self.latest, self.until) = (now, None);
        }
        self.latest
    }

    /// When the supervisor is to look again, that has this deadline.
    pub(super) fn deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        deadline.map(|deadline| self.until.unwrap_or(deadline))
    }

    /// Something that was due at this time is noticed now.
    pub(super) fn noticed(&mut self, deadline: Instant, now: Instant) {
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
        assert_eq!(clock.read(at(5500)), at(5500));
        assert_eq!(clock.deadline(Some(at(6000))), Some(at(6000)));
        assert_eq!(clock.deadline(None), None);
    }
}
