//! The units of work in flight in a worker, for its master's heartbeat and limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::ipc::HeartbeatReply;
use crate::metrics::{self, Counter, Gauge, WORK_IN_FLIGHT};

static IN_FLIGHT: Gauge = Gauge::new(WORK_IN_FLIGHT, "Units of work in flight, such as requests");
static FINISHED: Counter = Counter::new("work_finished", "Units of work that were finished");

/// The units of work of this process.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: u64,
    finished: u64,
    /// Start times of the unfinished units, in the order of their numbers.
    open: BTreeMap<u64, Instant>,
}

/// A unit of work in flight, such as a request. Dropping it marks the unit as finished.
///
/// See [`Me::begin_work`](super::Me::begin_work).
///
/// # Examples
///
/// ```
/// use release_core::{Me, Work};
///
/// /// The request is in flight until it is dropped.
/// struct Request {
///     path: String,
///     _work: Work,
/// }
///
/// fn begin(me: &Me, path: String) -> Request {
///     Request { path, _work: me.begin_work() }
/// }
/// # let _ = (begin, |request: Request| request.path);
/// ```
#[derive(Debug)]
#[must_use = "dropping it says that the work is finished"]
pub struct Work {
    in_flight: Arc<InFlight>,
    number: u64,
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut counts = self.in_flight.lock();
        counts.open.remove(&self.number);
        counts.finished += 1;
        if metrics::own().is_some() {
            IN_FLIGHT.add(-1);
            FINISHED.increment();
        }
    }
}

impl InFlight {
    pub(crate) fn begin(self: &Arc<Self>, now: Instant) -> Work {
        let mut counts = self.lock();
        counts.begun += 1;
        if metrics::own().is_some() {
            IN_FLIGHT.add(1);
        }
        let number = counts.begun;
        counts.open.insert(number, now);
        Work { in_flight: Arc::clone(self), number }
    }

    /// Returns the progress, for a heartbeat reply.
    pub(crate) fn reply(&self, now: Instant) -> HeartbeatReply {
        let counts = self.lock();
        let oldest = counts.open.first_key_value();
        let oldest = oldest.map(|(_, begun)| now.saturating_duration_since(*begun));
        HeartbeatReply { finished: counts.finished, oldest }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_unfinished_unit_counts() {
        let (in_flight, start) = (Arc::<InFlight>::default(), Instant::now());
        let second = Duration::from_secs(1);
        let reply = |seconds| in_flight.reply(start + second * seconds);
        assert_eq!(reply(9), HeartbeatReply { finished: 0, oldest: None });
        let (first, next) = (in_flight.begin(start), in_flight.begin(start + second));
        assert_eq!(reply(3), HeartbeatReply { finished: 0, oldest: Some(second * 3) });
        drop(first);
        assert_eq!(reply(3), HeartbeatReply { finished: 1, oldest: Some(second * 2) });
        drop(next);
        assert_eq!(reply(3), HeartbeatReply { finished: 2, oldest: None });
    }
}
