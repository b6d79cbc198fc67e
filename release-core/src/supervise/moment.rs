//! The pool's time.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment as a [`Pool`](super::Pool) counts it: the time since its first one, [`Moment::START`].
///
/// It depends on no clock: whoever drives the pool says what time it is. It can be written down, and means
/// the same to a pool that goes on elsewhere.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::Moment;
///
/// let death = Moment::START + Duration::from_secs(5);
/// assert_eq!(death - Moment::START, Duration::from_secs(5));
/// assert_eq!(Moment::START - death, Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(Duration);

impl Moment {
    /// The first moment of a new pool.
    pub const START: Self = Self(Duration::ZERO);
}

/// Ends at the last moment that there is.
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

/// The time from the other moment to this one; none if the other is the later one.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
