//! `LogThrottle`: limits how often a repeated condition is logged.

use std::time::{Duration, Instant};

/// Minimum interval between messages.
const INTERVAL: Duration = Duration::from_secs(10);

/// A peer that can trigger log messages at will could fill the disk.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    said: Option<Instant>,
    unsaid: u64,
}

impl LogThrottle {
    /// Returns the number of messages suppressed since the last one, or `None` to suppress this one.
    pub(crate) fn now(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now < said + INTERVAL) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_two_lines() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        assert_eq!(throttle.now(start), Some(0));
        for millisecond in 1..10_000 {
            assert_eq!(throttle.now(start + Duration::from_millis(millisecond)), None);
        }
        assert_eq!(throttle.now(start + INTERVAL), Some(9_999));
    }
}
