//! When polling for a response pays.

use std::time::{Duration, Instant};

/// How many responses in a row may be found this way. Then the other tasks of the thread have a turn.
pub(super) const IN_A_ROW: u32 = 32;

/// How long polling rests after an attempt in vain, as a multiple of what the attempt took: the cost
/// of attempts in vain is at most a tenth of the time.
const REST: u32 = 10;

/// The same after an attempt during which another process had the processor. A process that sleeps
/// gets it back sooner than a polling task.
const REST_IF_CONTENDED: u32 = 100;

/// What polling has brought so far.
#[derive(Debug, Default)]
pub(super) struct Spinning {
    found_in_a_row: u32,
    rests_until: Option<Instant>,
}

impl Spinning {
    pub(super) fn may_begin(&mut self, now: Instant) -> bool {
        if self.found_in_a_row >= IN_A_ROW || self.rests_until.is_some_and(|until| now < until) {
            self.found_in_a_row = 0;
            return false;
        }
        true
    }

    pub(super) fn ended(&mut self, is_found: bool, took: Duration, limit: Duration, now: Instant) {
        self.found_in_a_row = if is_found { self.found_in_a_row + 1 } else { 0 };
        let is_contended = took > 2 * limit;
        self.rests_until = match (is_contended, is_found) {
            (true, _) => Some(now + took * REST_IF_CONTENDED),
            (false, false) => Some(now + took * REST),
            (false, true) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    /// The share of the time that attempts take which end like this.
    fn share(is_found: bool, took: Duration) -> f64 {
        let (begun, mut spinning) = (Instant::now(), Spinning::default());
        let (mut now, mut spent) = (begun, Duration::ZERO);
        for _ in 0..1_000_000 {
            now += Duration::from_micros(3);
            if spinning.may_begin(now) {
                now += took;
                spent += took;
                spinning.ended(is_found, took, LIMIT, now);
            }
        }
        spent.as_secs_f64() / (now - begun).as_secs_f64()
    }

    #[test]
    fn attempts_in_vain_take_a_tenth_of_the_time_and_contended_ones_a_hundredth() {
        assert!((0.08..=0.1).contains(&share(false, LIMIT)), "{}", share(false, LIMIT));
        for is_found in [false, true] {
            let share = share(is_found, Duration::from_millis(4));
            assert!(share <= 0.011, "{share}");
        }
        assert!(share(true, LIMIT) > 0.9);
    }
}
