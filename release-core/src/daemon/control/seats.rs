//! The connections of a control socket: how many there may be, who makes room for whom, and what each
//! of them asks.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, AbortRegistration};

use super::pause::Pause;
use crate::ipc::link::Link;
use crate::net::Credentials;
use crate::rt::Rt;
use crate::sys::process::return_free_memory;

#[cfg(test)]
mod tests;

/// How long a connection has for its next request before another may take its seat.
const SEAT_TIME: Duration = Duration::from_millis(50);

/// After which time a request that has no answer yet gives way: to a new connection when all are busy,
/// and to an upgrade.
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
pub(super) struct Taken {
    last: u64,
    was_full: bool,
    pub(super) seats: HashMap<u64, Occupant>,
    pub(super) pause: Pause,
}

pub(super) struct Occupant {
    abort: AbortHandle,
    uid: u32,
    /// How many requests it has made.
    pub(super) asked: u64,
    busy: bool,
    since: Instant,
    pub(super) connected: Option<Connected>,
    /// The payload of its last request.
    pub(super) request: Vec<u8>,
    /// Whether its next request was begun in an earlier image of this process.
    waited: bool,
    /// How many times the handler of that request waits for an upgrade.
    pub(super) waits: usize,
}

/// Who sits there.
pub(super) struct Connected {
    /// Gone with the connection, before its seat.
    pub(super) link: Weak<Link>,
    pub(super) credentials: Credentials,
}

impl Seats {
    /// A seat for a connection of this user, if need be that of another one; `None` when all are
    /// busy. Whoever connects faster than connections can ask waits in the kernel's queue.
    pub(super) async fn wait_for_one(
        self: &Arc<Self>,
        uid: u32,
        most: usize,
        rt: &Rt,
    ) -> Option<(Seat, AbortRegistration)> {
        loop {
            match self.take(uid, most, rt.now()) {
                Offer::Seat(seat, registration) => return Some((seat, registration)),
                Offer::Later(moment) => rt.sleep_until(moment).await,
                Offer::AllBusy => {
                    // Said once, not as often as somebody connects.
                    if !mem::replace(&mut self.lock().was_full, true) {
                        tracing::warn!("control connections are turned away: all are busy");
                    }
                    return None;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, uid: u32, most: usize, now: Instant) -> Offer {
        let mut taken = self.lock();
        if taken.seats.len() >= most {
            let Some(number) = taken.first_to_go(uid, now) else { return Offer::AllBusy };
            let moment = taken.seats[&number].since + SEAT_TIME;
            if moment > now {
                return Offer::Later(moment);
            }
            if let Some(occupant) = taken.seats.remove(&number) {
                occupant.abort.abort();
            }
        }
        taken.was_full = false;
        let (seat, registration) = self.one_more(&mut taken, uid, 0, now);
        Offer::Seat(seat, registration)
    }

    /// A seat for a connection that had one in an earlier image of this process, which may have let
    /// more connect than this one does.
    pub(super) fn keep(
        self: &Arc<Self>,
        uid: u32,
        asked: bool,
        waited: bool,
        now: Instant,
    ) -> (Seat, AbortRegistration) {
        let mut taken = self.lock();
        let (seat, registration) = self.one_more(&mut taken, uid, asked.into(), now);
        taken.seats.entry(seat.number).and_modify(|occupant| occupant.waited = waited);
        drop(taken);
        (seat, registration)
    }

    fn one_more(
        self: &Arc<Self>,
        taken: &mut Taken,
        uid: u32,
        asked: u64,
        since: Instant,
    ) -> (Seat, AbortRegistration) {
        taken.last += 1;
        let number = taken.last;
        let (abort, registration) = AbortHandle::new_pair();
        let (connected, request) = (None, Vec::new());
        let (busy, waited, waits) = (false, false, 0);
        let occupant =
            Occupant { abort, uid, asked, busy, since, connected, request, waited, waits };
        taken.seats.insert(number, occupant);
        (Seat { seats: Arc::clone(self), number }, registration)
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Who gives way to a newcomer of this user, when there is no room.
    fn first_to_go(&self, uid: u32, now: Instant) -> Option<u64> {
        let mut held = HashMap::<u32, usize>::new();
        self.seats.values().for_each(|occupant| *held.entry(occupant.uid).or_default() += 1);
        // Nobody's connections keep those of other users out.
        let idle = self.seats.iter().filter(|(_, occupant)| !occupant.busy);
        let idle = idle.min_by_key(|(_, occupant)| {
            (Reverse(held[&occupant.uid]), occupant.asked > 0, occupant.since)
        });
        let is_one_of_too_many =
            |occupant: &Occupant| occupant.uid != uid && held[&occupant.uid] > self.seats.len() / 2;
        let latest = || {
            let too_many = self.seats.iter().filter(|(_, occupant)| is_one_of_too_many(occupant));
            too_many.max_by_key(|(_, occupant)| occupant.since)
        };
        let stuck = || self.seats.iter().find(|(_, occupant)| occupant.is_stuck(now));
        idle.or_else(stuck).or_else(latest).map(|(&number, _)| number)
    }

    /// Ends the connections whose request nobody can wait for.
    pub(super) fn give_up_stuck(&mut self, now: Instant) {
        for (_, occupant) in
            self.seats.extract_if(|_, occupant| occupant.waits == 0 && occupant.is_stuck(now))
        {
            occupant.abort.abort();
            tracing::warn!(uid = occupant.uid, "a control request that does not end is given up");
        }
    }
}

impl Occupant {
    /// A handler that never ends must not keep its seat for ever, nor the next version out.
    fn is_stuck(&self, now: Instant) -> bool {
        self.busy && self.since + BUSY_TIME <= now
    }
}

/// A connection's seat; free again when dropped, which is to be the last of the connection.
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

impl Seat {
    /// The connection that has the seat.
    pub(super) fn connected(&self, link: &Arc<Link>, credentials: Credentials) {
        let mut taken = self.seats.lock();
        if taken.pause.is_paused {
            link.pause();
        }
        if let Some(occupant) = taken.seats.get_mut(&self.number) {
            let link = Arc::downgrade(link);
            occupant.connected = Some(Connected { link, credentials });
        }
    }

    /// It has made a request; `payload` is swapped for one that is not needed any more.
    pub(super) fn asked(&self, now: Instant, payload: &mut Vec<u8>) -> Asking {
        let (mut request, mut waited) = (0, false);
        if let Some(occupant) = self.seats.lock().seats.get_mut(&self.number) {
            (occupant.busy, occupant.since, occupant.waits) = (true, now, 0);
            occupant.asked += 1;
            request = occupant.asked;
            waited = mem::take(&mut occupant.waited);
            mem::swap(&mut occupant.request, payload);
        }
        Asking { seats: Arc::clone(&self.seats), number: self.number, request, waited }
    }

    /// The request has its answer.
    pub(super) fn answered(&self, now: Instant) {
        if let Some(occupant) = self.seats.lock().seats.get_mut(&self.number) {
            (occupant.busy, occupant.since, occupant.waits) = (false, now, 0);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.seats.remove(&self.number);
        let was_last = taken.seats.is_empty();
        let waiter = taken.pause.waiter.take();
        drop(taken);
        waiter.into_iter().for_each(Waker::wake);
        if was_last {
            return_free_memory();
        }
    }
}

/// A request that is being answered.
#[derive(Clone)]
pub(crate) struct Asking {
    seats: Arc<Seats>,
    /// Of the seat.
    number: u64,
    /// Of the request; the seat may be asking the next one already.
    request: u64,
    /// Whether it was begun in an earlier image of this process, where it waited for the upgrade.
    pub(crate) waited: bool,
}

impl Asking {
    /// The request waits for an upgrade as long as this is kept: the upgrade does not wait for it,
    /// and the next image of the process begins it anew.
    pub(crate) fn wait_for_upgrade(&self) -> Waiting {
        self.count(|waits| waits.saturating_add(1));
        Waiting(self.clone())
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut taken = self.seats.lock();
        let occupant = taken.seats.get_mut(&self.number);
        if let Some(occupant) = occupant.filter(|occupant| occupant.asked == self.request) {
            occupant.waits = change(occupant.waits);
        }
        let waiter = taken.pause.waiter.take();
        drop(taken);
        waiter.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("number", &self.number).finish_non_exhaustive()
    }
}

/// See [`Asking::wait_for_upgrade`].
#[derive(Debug)]
pub(crate) struct Waiting(Asking);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.count(|waits| waits.saturating_sub(1));
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("taken", &self.lock().seats.len()).finish()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}
