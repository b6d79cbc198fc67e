//! Moments in a snapshot: relative to when it is taken, since a clock means nothing elsewhere.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

thread_local! {
    /// When the snapshot that this thread writes or reads is taken. A serde type sees only its
    /// serializer, so it is left here.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Writes or reads a snapshot whose moments are relative to this one.
pub(super) fn relative_to<T>(now: Instant, work: impl FnOnce() -> T) -> T {
    NOW.set(Some(now));
    let done = work();
    NOW.set(None);
    done
}

/// One moment, or some.
pub(super) trait Moments: Sized {
    type Relative: Serialize + for<'de> Deserialize<'de>;

    fn relative(&self, now: Instant) -> Self::Relative;
    fn absolute(relative: Self::Relative, now: Instant) -> Self;
}

#[derive(Serialize, Deserialize)]
pub(super) enum Relative {
    Ago(Duration),
    In(Duration),
}

impl Moments for Instant {
    type Relative = Relative;

    fn relative(&self, now: Instant) -> Relative {
        match self.checked_duration_since(now) {
            Some(time) => Relative::In(time),
            None => Relative::Ago(now - *self),
        }
    }

    fn absolute(relative: Relative, now: Instant) -> Self {
        // A clock that cannot go that far has a nearer end.
        match relative {
            Relative::Ago(time) => now.checked_sub(time),
            Relative::In(time) => now.checked_add(time),
        }
        .unwrap_or(now)
    }
}

impl Moments for Option<Instant> {
    type Relative = Option<Relative>;

    fn relative(&self, now: Instant) -> Self::Relative {
        self.map(|moment| moment.relative(now))
    }

    fn absolute(relative: Self::Relative, now: Instant) -> Self {
        relative.map(|moment| Instant::absolute(moment, now))
    }
}

impl Moments for VecDeque<Instant> {
    type Relative = Vec<Relative>;

    fn relative(&self, now: Instant) -> Self::Relative {
        self.iter().map(|moment| moment.relative(now)).collect()
    }

    fn absolute(relative: Self::Relative, now: Instant) -> Self {
        relative.into_iter().map(|moment| Instant::absolute(moment, now)).collect()
    }
}

pub(super) fn serialize<M: Moments, S: Serializer>(
    moments: &M,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    moments.relative(now()).serialize(serializer)
}

pub(super) fn deserialize<'de, M: Moments, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<M, D::Error> {
    M::Relative::deserialize(deserializer).map(|relative| M::absolute(relative, now()))
}

fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}
