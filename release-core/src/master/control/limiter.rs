//! `ConnectionLimiter`: the connections of a control socket, their limit, and their pause.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, AbortRegistration};

use super::frozen::{FrozenConnection, Past};
use crate::Error;
use crate::guard::wake_all;
use crate::ipc::link::Link;
use crate::ipc::link::frozen::Frozen;
use crate::net::Credentials;
use crate::rt::Rt;
use crate::sys::memory::return_free_memory;

#[cfg(test)]
mod tests;

/// Time that a connection has for its next request before another connection may take its place.
const IDLE_GRACE: Duration = Duration::from_millis(50);

/// Time after which an unanswered request yields: to a new connection when all are busy, and to an
/// upgrade.
const BUSY_TIME: Duration = Duration::from_secs(60);

/// How long a new connection waits for an answer to another one when all are busy. Most answers take less.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);

/// Limits the open connections, and decides which one yields to a new one.
///
/// The connections of one user never keep another user out: see [`LimiterState::first_to_yield`].
pub(super) struct ConnectionLimiter {
    most: usize,
    state: Mutex<LimiterState>,
}

/// The decision about a new connection.
enum Admission {
    Granted,
    /// All others may still send a request: until this moment, or until such a request changes this
    /// number.
    Later(Instant, u64),
    /// All others are busy, at the time of this number of changes.
    AllBusy(u64),
}

#[derive(Default)]
struct LimiterState {
    /// Number of the latest connection.
    last: u64,
    /// Counts requests, answers and closed connections.
    changes: u64,
    /// Waker of the accepting task that waits for room.
    newcomer: Option<Waker>,
    was_full: bool,
    is_paused: bool,
    /// Waker of the task that waits until the connections are at rest.
    waiter: Option<Waker>,
    admitted: HashMap<u64, Admitted>,
}

/// An open connection.
struct Admitted {
    abort: AbortHandle,
    link: Arc<Link>,
    peer: Credentials,
    /// Number of its requests.
    asked: u64,
    is_busy: bool,
    /// Time of its last request, answer, or its start.
    since: Instant,
    /// Payload of its last request.
    request: Vec<u8>,
    /// Whether its next request has begun in an earlier image of this process.
    has_waited: bool,
    /// Number of waits of that request's handler for an upgrade.
    waits: usize,
}

impl ConnectionLimiter {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// Makes room for a connection of this user, and closes another one if necessary. Returns `false` if
    /// all are busy, and stay so. Clients that connect faster than requests arrive wait in the kernel's
    /// queue.
    pub(super) async fn make_room(&self, uid: u32, rt: &Rt) -> bool {
        // A crowd that stays costs its newcomers the time once, not one after the other.
        let patience = if self.lock().was_full { Duration::ZERO } else { BUSY_PATIENCE };
        let patience = rt.after(patience);
        loop {
            let (moment, changes) = match self.decide(uid, rt.now()) {
                Admission::Granted => return true,
                Admission::Later(moment, changes) => (moment, changes),
                Admission::AllBusy(changes) if rt.now() < patience => (patience, changes),
                Admission::AllBusy(_) => {
                    // Logged once, not for each connection.
                    if !mem::replace(&mut self.lock().was_full, true) {
                        log_warning!("control connections are turned away: all are busy");
                    }
                    return false;
                }
            };
            let wait = moment.saturating_duration_since(rt.now());
            let _ = rt.timeout(wait, poll_fn(|cx| self.poll_changed(cx, changes))).await;
        }
    }

    fn decide(&self, uid: u32, now: Instant) -> Admission {
        let mut state = self.lock();
        if state.admitted.len() >= self.most {
            let Some(number) = state.first_to_yield(uid, now) else {
                return Admission::AllBusy(state.changes);
            };
            let moment = state.admitted[&number].since + IDLE_GRACE;
            if moment > now {
                return Admission::Later(moment, state.changes);
            }
            if let Some(admitted) = state.admitted.remove(&number) {
                admitted.abort.abort();
            }
        }
        state.was_full = false;
        Admission::Granted
    }

    fn poll_changed(&self, cx: &Context<'_>, changes: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.changes != changes {
            return Poll::Ready(());
        }
        state.newcomer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Admits a connection: after [`make_room`](Self::make_room), or from an earlier image of this process,
    /// which may have allowed more connections. The registration ends it.
    pub(super) fn admit(
        self: &Arc<Self>,
        link: &Arc<Link>,
        peer: Credentials,
        past: Past,
        now: Instant,
    ) -> (Permit, AbortRegistration) {
        let mut state = self.lock();
        if state.is_paused {
            link.pause();
        }
        state.last += 1;
        let number = state.last;
        let (abort, registration) = AbortHandle::new_pair();
        let admitted = Admitted {
            abort,
            link: Arc::clone(link),
            peer,
            asked: past.has_asked.into(),
            is_busy: false,
            since: now,
            request: Vec::new(),
            has_waited: past.has_waited,
            waits: 0,
        };
        state.admitted.insert(number, admitted);
        (Permit { limiter: Arc::clone(self), number }, registration)
    }

    /// Begins no request from now on, and ends connections whose handler is stuck.
    pub(super) fn pause(&self, now: Instant) {
        let mut state = self.lock();
        state.end_stuck(now);
        // Connections that are admitted later are paused then.
        state.is_paused = true;
        let links = state.links();
        drop(state);
        links.iter().for_each(|link| link.pause());
    }

    /// Waits until only requests that wait for the upgrade are in flight.
    pub(super) fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.waiter = Some(cx.waker().clone());
        let mut is_at_rest = |one: &Admitted| one.waits > 0 || one.link.poll_at_rest(cx).is_ready();
        if state.admitted.values().all(&mut is_at_rest) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns the number of connections with requests in flight.
    pub(super) fn unfinished(&self) -> usize {
        let is_busy = |one: &&Admitted| one.waits == 0 && one.link.unfinished() > 0;
        self.lock().admitted.values().filter(is_busy).count()
    }

    /// Takes the state out of the paused connections.
    pub(super) fn freeze(&self) -> Result<Vec<FrozenConnection>, Error> {
        self.lock().connections(|link, unanswered| link.freeze(unanswered))
    }

    /// Returns the state of the connections as they are, for a trial.
    pub(super) fn sample(&self) -> Result<Vec<FrozenConnection>, Error> {
        self.lock().connections(|link, _| link.sample())
    }

    pub(super) fn resume(&self) {
        let mut state = self.lock();
        (state.is_paused, state.waiter) = (false, None);
        let links = state.links();
        drop(state);
        links.iter().for_each(|link| link.resume());
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LimiterState {
    /// Returns the connection that yields to a new connection of this user: an idle one of the user with
    /// the most connections, one without any request, or else the longest idle. If all are busy: a stuck
    /// one, or else the latest request of another user with more than half of the connections.
    fn first_to_yield(&self, uid: u32, now: Instant) -> Option<u64> {
        let mut held = HashMap::<u32, usize>::new();
        self.admitted.values().for_each(|one| *held.entry(one.peer.uid).or_default() += 1);
        let idle = self.admitted.iter().filter(|(_, one)| !one.is_busy);
        let idle =
            idle.min_by_key(|(_, one)| (Reverse(held[&one.peer.uid]), one.asked > 0, one.since));
        let stuck = || self.admitted.iter().find(|(_, one)| one.is_stuck(now));
        let has_too_many = |user: u32| user != uid && held[&user] > self.admitted.len() / 2;
        let latest = || {
            let too_many = self.admitted.iter().filter(|(_, one)| has_too_many(one.peer.uid));
            too_many.max_by_key(|(_, one)| one.since)
        };
        idle.or_else(stuck).or_else(latest).map(|(&number, _)| number)
    }

    /// Counts a change, and returns the waker of the connection that waits for room.
    fn change(&mut self) -> Option<Waker> {
        self.changes += 1;
        self.newcomer.take()
    }

    /// Ends the connections whose handler is stuck.
    fn end_stuck(&mut self, now: Instant) {
        let is_stuck = |_: &u64, one: &mut Admitted| one.waits == 0 && one.is_stuck(now);
        for (_, one) in self.admitted.extract_if(is_stuck) {
            one.abort.abort();
            log_warning!(uid = one.peer.uid, "a control request that does not end is given up");
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.admitted.values().map(|one| Arc::clone(&one.link)).collect()
    }

    /// Returns the open connections, each with its request that waits for the upgrade.
    fn connections(
        &self,
        freeze: impl Fn(&Link, Option<&[u8]>) -> Result<Option<Frozen>, Error>,
    ) -> Result<Vec<FrozenConnection>, Error> {
        let mut connections = Vec::new();
        for one in self.admitted.values() {
            let unanswered = (one.waits > 0).then_some(&*one.request);
            if let Some(link) = freeze(&one.link, unanswered)? {
                let past = Past { has_asked: one.asked > 0, has_waited: unanswered.is_some() };
                connections.push(FrozenConnection::new(link, one.peer, past));
            }
        }
        Ok(connections)
    }
}

impl Admitted {
    /// Returns whether the handler seems never to end: it must not keep its place for ever, nor prevent
    /// upgrades.
    fn is_stuck(&self, now: Instant) -> bool {
        self.is_busy && self.since + BUSY_TIME <= now
    }
}

/// Permission to stay open. Dropped after everything else of the connection.
pub(super) struct Permit {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
}

impl Permit {
    /// Records a request; `payload` is exchanged for a buffer that is no longer needed.
    pub(super) fn asked(&self, now: Instant, payload: &mut Vec<u8>) -> ControlRequest {
        let (mut request, mut has_waited) = (0, false);
        let mut state = self.limiter.lock();
        let newcomer = state.change();
        if let Some(one) = state.admitted.get_mut(&self.number) {
            (one.is_busy, one.since, one.waits) = (true, now, 0);
            one.asked += 1;
            request = one.asked;
            has_waited = mem::take(&mut one.has_waited);
            mem::swap(&mut one.request, payload);
        }
        drop(state);
        newcomer.into_iter().for_each(Waker::wake);
        let (limiter, connection) = (Arc::clone(&self.limiter), self.number);
        ControlRequest { limiter, connection, request, has_waited }
    }

    /// Records that the request has its answer.
    pub(super) fn answered(&self, now: Instant) {
        let mut state = self.limiter.lock();
        let newcomer = state.change();
        if let Some(one) = state.admitted.get_mut(&self.number) {
            (one.is_busy, one.since, one.waits) = (false, now, 0);
        }
        drop(state);
        newcomer.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        let closed = state.admitted.remove(&self.number);
        let was_last = state.admitted.is_empty();
        let waiters = [state.waiter.take(), state.change()];
        drop(state);
        drop(closed);
        wake_all(waiters.into_iter().flatten());
        if was_last {
            return_free_memory();
        }
    }
}

/// A request in flight on a control socket.
#[derive(Clone)]
pub(crate) struct ControlRequest {
    limiter: Arc<ConnectionLimiter>,
    connection: u64,
    /// Number of the request; the connection may have sent the next one already.
    request: u64,
    /// Whether it began in an earlier image of this process, where it waited for the upgrade.
    pub(crate) has_waited: bool,
}

impl ControlRequest {
    /// Lets the request wait for an upgrade while the result is kept: the upgrade does not wait for it,
    /// and the next image of the process begins it anew.
    pub(crate) fn wait_for_upgrade(&self) -> UpgradeWait {
        self.count(|waits| waits.saturating_add(1));
        UpgradeWait(self.clone())
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.limiter.lock();
        let one = state.admitted.get_mut(&self.connection);
        if let Some(one) = one.filter(|one| one.asked == self.request) {
            one.waits = change(one.waits);
        }
        let waiter = state.waiter.take();
        drop(state);
        waiter.into_iter().for_each(Waker::wake);
    }
}

/// See [`ControlRequest::wait_for_upgrade`].
pub(crate) struct UpgradeWait(ControlRequest);

impl Drop for UpgradeWait {
    fn drop(&mut self) {
        self.0.count(|waits| waits.saturating_sub(1));
    }
}

impl fmt::Debug for ConnectionLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionLimiter").field("admitted", &self.lock().admitted.len()).finish()
    }
}
