//! The pool's clock. The master itself may be held up, by a debugger or an overloaded machine. The
//! events of its workers from that time are then handled before the deadlines of that time.

use std::time::{Duration, Instant};

use crate::process::HELD_UP;
use crate::supervise::Moment;

/// How long the events of that time may take to arrive.
const NEWS_TIME: Duration = Duration::from_millis(500);

/// Converts between instants and moments of the pool. No other code does.
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

/// The clock of the pool. It stands still after the master was held up, until the events have
/// arrived, and then continues from there.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Epoch,
    /// Latest time that it returned.
    latest: Moment,
    /// End of its standstill.
    until: Option<Instant>,
    /// How far it lags behind the real time.
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

    /// Returns the instant of a moment of the pool.
    pub(crate) fn real(&self, moment: Moment) -> Instant {
        self.epoch.instant(moment) + self.lost
    }

    /// Returns when the supervisor must look again for this deadline.
    pub(crate) fn deadline(&self, deadline: Option<Instant>) -> Option<Instant> {
        deadline.map(|deadline| self.until.unwrap_or(deadline))
    }

    /// Notes that an event due at `deadline` is handled at `now`. If that is late, the clock stands
    /// still.
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
        // A later delay does not extend the standstill.
        clock.noticed(at(200), at(5499));
        assert_eq!(clock.read(at(5499)), moment(100));
        assert_eq!(clock.read(at(5500)), moment(100));
        assert_eq!(clock.read(at(5600)), moment(200));
        assert_eq!(clock.real(moment(200)), at(5600));
        assert_eq!(clock.deadline(None), None);
    }
}
