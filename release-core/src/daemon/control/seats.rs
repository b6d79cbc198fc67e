//! The connections of a control socket: how many there may be, and who makes room for whom.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, AbortRegistration};

use crate::rt::Rt;
use crate::sys::process::return_free_memory;

/// How long a connection has for its next request before another may take its seat.
const SEAT_TIME: Duration = Duration::from_millis(50);

/// After which time a request that has no answer yet gives way to a new connection, when all are busy.
const BUSY_TIME: Duration = Duration::from_secs(60);

/// Who is connected, and who goes first when there is no room.
#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<Taken>,
}

/// What a newcomer finds.
enum Offer {
    Seat(Seat, AbortRegistration),
    /// All seats are taken by connections that may still be about to ask.
    Later(Instant),
    AllBusy,
}

#[derive(Default)]
struct Taken {
    last: u64,
    was_full: bool,
    seats: HashMap<u64, Occupant>,
}

struct Occupant {
    abort: AbortHandle,
    asked: bool,
    busy: bool,
    since: Instant,
}

impl Seats {
    /// A seat, if need be that of the connection which has been idle longest; `None` when all are
    /// busy. Whoever connects faster than connections can ask waits in the kernel's queue.
    pub(super) async fn wait_for_one(
        self: &Arc<Self>,
        most: usize,
        rt: &Rt,
    ) -> Option<(Seat, AbortRegistration)> {
        loop {
            match self.take(most, rt.now()) {
                Offer::Seat(seat, registration) => return Some((seat, registration)),
                Offer::Later(moment) => rt.sleep_until(moment).await,
                Offer::AllBusy => {
                    // Said once, not as often as somebody connects.
                    if !std::mem::replace(&mut self.lock().was_full, true) {
                        tracing::warn!("control connections are turned away: all are busy");
                    }
                    return None;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, most: usize, now: Instant) -> Offer {
        let mut taken = self.lock();
        if taken.seats.len() >= most {
            let idle = taken.seats.iter().filter(|(_, occupant)| !occupant.busy);
            let first = idle.min_by_key(|(_, occupant)| (occupant.asked, occupant.since));
            // A handler that never ends must not keep its seat for ever.
            let stuck =
                || taken.seats.iter().find(|(_, occupant)| occupant.since + BUSY_TIME <= now);
            let Some((&number, occupant)) = first.or_else(stuck) else {
                return Offer::AllBusy;
            };
            let moment = occupant.since + SEAT_TIME;
            if moment > now {
                return Offer::Later(moment);
            }
            if let Some(occupant) = taken.seats.remove(&number) {
                occupant.abort.abort();
            }
        }
        taken.was_full = false;
        taken.last += 1;
        let number = taken.last;
        let (abort, registration) = AbortHandle::new_pair();
        taken.seats.insert(number, Occupant { abort, asked: false, busy: false, since: now });
        let seats = Arc::clone(self);
        Offer::Seat(Seat { seats, number }, registration)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's seat; free again when dropped, which is to be the last of the connection.
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

impl Seat {
    pub(super) fn busy(&self, busy: bool, now: Instant) {
        if let Some(occupant) = self.seats.lock().seats.get_mut(&self.number) {
            (occupant.busy, occupant.asked, occupant.since) = (busy, true, now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.seats.remove(&self.number);
        let was_last = taken.seats.is_empty();
        drop(taken);
        if was_last {
            return_free_memory();
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}
