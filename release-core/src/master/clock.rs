//! The pool's clock. A master may be held up itself, by a debugger or a machine without a processor to
//! spare: what its workers did meanwhile comes before what became due meanwhile.

use std::time::{Duration, Instant};

use crate::process::HELD_UP;
use crate::supervise::Moment;

/// How long the news of that time may take to come in.
const NEWS_TIME: Duration = Duration::from_millis(500);

/// Which moment of the pool's an instant is: the one place where the two meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    instant: Instant,
    moment: Moment,
}

impl Epoch {
    pub(crate) fn new(instant: Instant, moment: Moment) -> Self {
        Self { instant, moment }
    }

    pub(crate) fn moment(self, instant: Instant) -> Moment {
        self.moment + instant.saturating_duration_since(self.instant)
    }

    fn instant(self, moment: Moment) -> Instant {
        self.instant + (moment - self.moment)
    }
}

/// Stands still after the master was held up, until the news have come in, and goes on from there.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Epoch,
    /// The time that it returned last.
    latest: Moment,
    /// Until when it stands still.
    until: Option<Instant>,
    /// How far it is behind.
    lost: Duration,
}

impl Clock {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, latest: epoch.moment, until: None, lost: Duration::ZERO }
    }

    /// Returns the time of the pool.
    pub(crate) fn read(&mut self, now: Instant) -> Moment {
        match self.until {
            Some(until) if now < until => return self.latest,
            Some(_) => (self.lost, self.until) = (self.epoch.moment(now) - self.latest, None),
            None => {}
        }
        let read = now.checked_sub(self.lost).map(|now| self.epoch.moment(now));
        self.latest = self.latest.max(read.unwrap_or(self.latest));
        self.latest
    }

    /// When this moment of the pool's is.
    pub(crate) fn real(&self, moment: Moment) -> Instant {
        self.epoch.instant(moment) + self.lost
    }

    /// Returns when the supervisor must look again for this deadline.
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
        let moment = |millis| Moment::START + Duration::from_millis(millis);
        let mut clock = Clock::new(Epoch::new(start, Moment::START));
        clock.noticed(at(50), at(100));
        assert_eq!(clock.read(at(100)), moment(100));
        clock.noticed(at(200), at(5000));
        assert_eq!(clock.read(at(5000)), moment(100));
        assert_eq!(clock.deadline(Some(at(200))), Some(at(5500)));
        // Whatever is late by now is no reason to wait again.
        clock.noticed(at(200), at(5499));
        assert_eq!(clock.read(at(5499)), moment(100));
        assert_eq!(clock.read(at(5500)), moment(100));
        assert_eq!(clock.read(at(5600)), moment(200));
        assert_eq!(clock.real(moment(200)), at(5600));
        assert_eq!(clock.deadline(None), None);
    }
}
