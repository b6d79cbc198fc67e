//! Admission of connections to a control socket: their limit, and the connection that gives way.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, AbortRegistration};

use super::pause::Pause;
use crate::ipc::link::Link;
use crate::net::Credentials;
use crate::rt::Rt;

mod seat;
#[cfg(test)]
mod tests;

pub(super) use seat::Seat;
pub(crate) use seat::{Asking, Waiting};

/// How long a connection has for its next request before another may take its seat.
const SEAT_TIME: Duration = Duration::from_millis(50);

/// After which time a request that has no answer yet gives way: to a new connection when all are busy,
/// and to an upgrade.
const BUSY_TIME: Duration = Duration::from_secs(60);

/// The open connections, and the one that gives way when there is no room.
#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<Taken>,
}

/// The result for a new connection.
enum Offer {
    Seat(Seat, AbortRegistration),
    /// All seats are taken by connections that may still send a request: until this moment, or until
    /// they do, which changes this number.
    Later(Instant, u64),
    AllBusy,
}

#[derive(Default)]
pub(super) struct Taken {
    last: u64,
    /// Counts requests and closed connections.
    changes: u64,
    /// Waker of the accepting task that waits for a seat.
    newcomer: Option<Waker>,
    was_full: bool,
    pub(super) seats: HashMap<u64, Occupant>,
    pub(super) pause: Pause,
    /// The socket that takes the place of the one that is accepted on.
    pub(super) successor: Option<OwnedFd>,
}

pub(super) struct Occupant {
    abort: AbortHandle,
    uid: u32,
    /// Number of its requests.
    pub(super) asked: u64,
    busy: bool,
    since: Instant,
    pub(super) connected: Option<Connected>,
    /// The payload of its last request.
    pub(super) request: Vec<u8>,
    /// Whether its next request was begun in an earlier image of this process.
    waited: bool,
    /// Number of waits of that request's handler for an upgrade.
    pub(super) waits: usize,
}

/// The user of the connection.
pub(super) struct Connected {
    /// Gone with the connection, before its seat.
    pub(super) link: Weak<Link>,
    pub(super) credentials: Credentials,
}

impl Seats {
    /// Returns a seat for a connection of this user, taken from another connection if necessary; `None`
    /// when all are busy. Clients that connect faster than requests arrive wait in the kernel's queue.
    pub(super) async fn wait_for_one(
        self: &Arc<Self>,
        uid: u32,
        most: usize,
        rt: &Rt,
    ) -> Option<(Seat, AbortRegistration)> {
        loop {
            match self.take(uid, most, rt.now()) {
                Offer::Seat(seat, registration) => return Some((seat, registration)),
                Offer::Later(moment, changes) => {
                    let wait = moment.saturating_duration_since(rt.now());
                    let _ = rt.timeout(wait, poll_fn(|cx| self.poll_changed(cx, changes))).await;
                }
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
                return Offer::Later(moment, taken.changes);
            }
            if let Some(occupant) = taken.seats.remove(&number) {
                occupant.abort.abort();
            }
        }
        taken.was_full = false;
        let (seat, registration) = self.one_more(&mut taken, uid, 0, now);
        Offer::Seat(seat, registration)
    }

    fn poll_changed(&self, cx: &Context<'_>, changes: u64) -> Poll<()> {
        let mut taken = self.lock();
        if taken.changes != changes {
            return Poll::Ready(());
        }
        taken.newcomer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Returns a seat for a connection that had one in an earlier image of this process, which may have
    /// allowed more connections than this one does.
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
    /// Returns the connection that gives way to a new one of this user, when there is no room.
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

    /// Returns the waker of the connection that waits for a free seat.
    fn change(&mut self) -> Option<Waker> {
        self.changes += 1;
        self.newcomer.take()
    }

    /// Ends the connections whose handler is stuck.
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

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("taken", &self.lock().seats.len()).finish()
    }
}
