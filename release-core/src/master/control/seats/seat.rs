//! A connection's seat, and what it asks.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::{Connected, Seats};
use crate::ipc::link::Link;
use crate::net::Credentials;
use crate::sys::memory::return_free_memory;

/// A connection's seat; free again when dropped, which is to be the last of the connection.
pub(in super::super) struct Seat {
    pub(super) seats: Arc<Seats>,
    pub(super) number: u64,
}

impl Seat {
    /// The connection that has the seat.
    pub(in super::super) fn connected(&self, link: &Arc<Link>, credentials: Credentials) {
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
    pub(in super::super) fn asked(&self, now: Instant, payload: &mut Vec<u8>) -> Asking {
        let (mut request, mut waited) = (0, false);
        let mut taken = self.seats.lock();
        let newcomer = taken.change();
        if let Some(occupant) = taken.seats.get_mut(&self.number) {
            (occupant.busy, occupant.since, occupant.waits) = (true, now, 0);
            occupant.asked += 1;
            request = occupant.asked;
            waited = mem::take(&mut occupant.waited);
            mem::swap(&mut occupant.request, payload);
        }
        drop(taken);
        newcomer.into_iter().for_each(Waker::wake);
        Asking { seats: Arc::clone(&self.seats), number: self.number, request, waited }
    }

    /// The request has its answer.
    pub(in super::super) fn answered(&self, now: Instant) {
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
        let waiters = [taken.pause.waiter.take(), taken.change()];
        drop(taken);
        waiters.into_iter().flatten().for_each(Waker::wake);
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

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}
