//! The units of work that a worker has in hand, for its master's heartbeat and limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::ipc::Beat;

/// All units of work of this process.
#[derive(Debug, Default)]
pub(crate) struct Works(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    begun: u64,
    finished: u64,
    /// When those began that are not finished, in the order of their numbers.
    open: BTreeMap<u64, Instant>,
}

/// A unit of work in hand, such as a request; dropping it says that the unit is finished.
///
/// See [`Me::begin_work`](super::Me::begin_work).
#[derive(Debug)]
#[must_use = "dropping it says that the work is finished"]
pub struct Work {
    works: Arc<Works>,
    number: u64,
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut ledger = self.works.lock();
        ledger.open.remove(&self.number);
        ledger.finished += 1;
    }
}

impl Works {
    pub(crate) fn begin(self: &Arc<Self>, now: Instant) -> Work {
        let mut ledger = self.lock();
        ledger.begun += 1;
        let number = ledger.begun;
        ledger.open.insert(number, now);
        Work { works: Arc::clone(self), number }
    }

    /// How it goes.
    pub(crate) fn beat(&self, now: Instant) -> Beat {
        let ledger = self.lock();
        let oldest = ledger.open.first_key_value();
        let oldest = oldest.map(|(_, begun)| now.saturating_duration_since(*begun));
        Beat { finished: ledger.finished, oldest }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_unfinished_unit_counts() {
        let (works, start) = (Arc::<Works>::default(), Instant::now());
        let second = Duration::from_secs(1);
        let beat = |seconds| works.beat(start + second * seconds);
        assert_eq!(beat(9), Beat { finished: 0, oldest: None });
        let (first, next) = (works.begin(start), works.begin(start + second));
        assert_eq!(beat(3), Beat { finished: 0, oldest: Some(second * 3) });
        drop(first);
        assert_eq!(beat(3), Beat { finished: 1, oldest: Some(second * 2) });
        drop(next);
        assert_eq!(beat(3), Beat { finished: 2, oldest: None });
    }
}
