//! When polling for a response pays.

use std::time::{Duration, Instant};

/// How many responses in a row may be found this way. Then the other tasks of the thread have a turn.
pub(super) const IN_A_ROW: u32 = 32;

/// How long polling rests after an attempt in vain, as a multiple of what the attempt took: the cost
/// of attempts in vain is then at most a tenth of the time, whatever the reason for them is.
const REST: u32 = 10;

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

    /// An attempt that took longer than its limit has lost the processor to another process, even if
    /// it has found something: it would be better asleep.
    pub(super) fn ended(&mut self, is_found: bool, took: Duration, limit: Duration, now: Instant) {
        self.found_in_a_row = if is_found { self.found_in_a_row + 1 } else { 0 };
        self.rests_until = (!is_found || took > limit).then(|| now + took * REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_in_vain_take_at_most_a_tenth_of_the_time() {
        let (limit, mut spinning) = (Duration::from_micros(50), Spinning::default());
        let begun = Instant::now();
        let (mut now, mut spent) = (begun, Duration::ZERO);
        for turn in 0..100_000 {
            now += Duration::from_micros(3);
            // Without the processor for 4 ms now and then, whether there is an answer or not.
            let (is_found, took) = match turn % 1000 {
                0 => (turn % 2000 == 0, Duration::from_millis(4)),
                _ => (false, limit),
            };
            if spinning.may_begin(now) {
                now += took;
                spent += took;
                spinning.ended(is_found, took, limit, now);
            }
        }
        assert!(spent * 10 <= now - begun, "{spent:?} of {:?}", now - begun);
        assert!(spent * 12 >= now - begun, "{spent:?} of {:?}", now - begun);
    }
}
