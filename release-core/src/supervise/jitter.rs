//! Random delays from a seed: the same history always yields the same delays.

use std::time::Duration;

/// Generates random numbers with splitmix64. Must not be used for secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jitter(pub(super) u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a duration between a half and the whole of `nominal`, uniformly distributed.
    pub(super) fn apply(&mut self, nominal: Duration) -> Duration {
        let half = nominal / 2;
        half + half * u32::from(self.next()) / u32::from(u16::MAX)
    }

    /// Returns a duration between zero and a tenth of `nominal`, uniformly distributed.
    pub(super) fn tenth(&mut self, nominal: Duration) -> Duration {
        nominal / 10 * u32::from(self.next()) / u32::from(u16::MAX)
    }

    /// Returns a number between zero and a tenth of `nominal`, uniformly distributed.
    pub(super) fn tenth_of(&mut self, nominal: u64) -> u64 {
        let tenth = u128::from(nominal) * u128::from(self.next()) / u128::from(u16::MAX) / 10;
        u64::try_from(tenth).unwrap_or(nominal)
    }

    fn next(&mut self) -> u16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let [high, low, ..] = word.to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_lies_between_a_half_and_the_whole() {
        let mut jitter = Jitter::new(7);
        let nominal = Duration::from_secs(2);
        let drawn: Vec<_> = (0..1000).map(|_| jitter.apply(nominal)).collect();
        assert!(drawn.iter().all(|d| (nominal / 2..=nominal).contains(d)));
        let (low, high) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(*low < Duration::from_millis(1050) && *high > Duration::from_millis(1950));
    }
}
