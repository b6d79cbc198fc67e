//! Time of the pool.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Point in time, as the duration since [`Moment::START`] of a [`Pool`](super::Pool).
///
/// Depends on no clock: the caller of the pool supplies the time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::supervise::Moment;
///
/// let exit = Moment::START + Duration::from_secs(5);
/// assert_eq!(exit - Moment::START, Duration::from_secs(5));
/// assert_eq!(Moment::START - exit, Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The start of a new pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::supervise::{GroupSpec, Moment, Pool};
    ///
    /// let pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
    /// assert_eq!(pool.time(), Moment::START);
    /// ```
    pub const START: Self = Self(Duration::ZERO);
}

/// Saturates at the maximum.
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

/// Returns the time between both, or zero if `earlier` is later.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
