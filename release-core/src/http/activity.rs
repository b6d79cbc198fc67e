//! `Activity`: the present phase of a connection, for its time limits.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;

use futures_util::task::AtomicWaker;
use hyper::Version;

use super::keeper::KeptConnection;
use crate::rt::Rt;

/// The phases of a connection, as its stream and its service report them.
#[derive(Clone, Copy, Debug)]
pub(super) enum ConnectionPhase {
    /// No request has come since the connection was accepted.
    New(Instant),
    /// All requests are answered.
    Idle(Instant),
    /// The head of a request has begun to arrive on HTTP/1.
    Head(Instant),
    /// So many requests are being answered.
    InHand(usize),
}

/// Longest write that is no sign of a client that reads: on HTTP/2, the answer to a ping.
const PONG: usize = 17;

/// The phase of a connection.
pub(super) struct Activity {
    rt: Rt,
    state: Mutex<(ConnectionPhase, Version)>,
    /// When bytes were written last. Hyper may have an answer, of which the client reads little by little,
    /// long after the end of its body.
    written: Mutex<Option<Instant>>,
    /// Woken by the first request of HTTP/2.
    http2: AtomicWaker,
    /// Woken when the connection may have come to rest.
    rest: AtomicWaker,
    /// Whether what was written last is not flushed yet.
    is_unflushed: AtomicBool,
    /// Whether the last request has a body of which hyper has not seen the end.
    has_body: AtomicBool,
    /// Whether the head of the last answer says that another request may follow.
    has_promised: AtomicBool,
}

impl Activity {
    pub(super) fn new(rt: &Rt) -> Self {
        Self::at(rt, ConnectionPhase::New(rt.now()))
    }

    /// The activity of a connection that has come from another worker.
    pub(super) fn of(rt: &Rt, kept: &KeptConnection) -> Self {
        let since = rt.now().checked_sub(kept.waits).unwrap_or_else(|| rt.now());
        Self::at(
            rt,
            match (kept.is_new, kept.unread.is_empty()) {
                (true, _) => ConnectionPhase::New(since),
                (false, true) => ConnectionPhase::Idle(since),
                (false, false) => ConnectionPhase::Head(since),
            },
        )
    }

    fn at(rt: &Rt, phase: ConnectionPhase) -> Self {
        Self {
            rt: rt.clone(),
            state: Mutex::new((phase, Version::HTTP_11)),
            written: Mutex::new(None),
            http2: AtomicWaker::new(),
            rest: AtomicWaker::new(),
            is_unflushed: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            has_promised: AtomicBool::new(false),
        }
    }

    pub(super) fn begin_http2(&self) {
        self.lock().1 = Version::HTTP_2;
    }

    /// Notes whether all that was written has been flushed.
    pub(super) fn flushed(&self, is_flushed: bool) {
        self.is_unflushed.store(!is_flushed, Ordering::Relaxed);
        if is_flushed {
            self.rest.wake();
        }
    }

    /// Notes that so many bytes were written.
    pub(super) fn wrote(&self, bytes: usize) {
        if bytes > if self.is_http2() { PONG } else { 0 } {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            *written = Some(self.rt.now());
        }
    }

    /// Returns the later one of this time and the last write.
    pub(super) fn written_after(&self, since: Instant) -> Instant {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.map_or(since, |written| written.max(since))
    }

    /// Returns whether no request is in hand, and all answers are sent.
    pub(super) fn is_at_rest(&self) -> bool {
        !matches!(self.phase(), ConnectionPhase::InHand(_))
            && !self.is_unflushed.load(Ordering::Relaxed)
    }

    /// Waits until no request is in hand, and all answers are sent.
    pub(super) async fn at_rest(&self) {
        poll_fn(|cx| {
            self.rest.register(cx.waker());
            if self.is_at_rest() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(super) fn set_body(&self, has_body: bool) {
        self.has_body.store(has_body, Ordering::Relaxed);
    }

    pub(super) fn has_body(&self) -> bool {
        self.has_body.load(Ordering::Relaxed)
    }

    /// Notes whether the head of an answer says that another request may follow.
    pub(super) fn promise(&self, has_promised: bool) {
        self.has_promised.store(has_promised, Ordering::Relaxed);
    }

    pub(super) fn has_promised(&self) -> bool {
        self.has_promised.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, (ConnectionPhase, Version)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the phase. A client that still receives an answer is not idle, nor is its next head late.
    pub(super) fn phase(&self) -> ConnectionPhase {
        let phase = self.lock().0;
        match phase {
            ConnectionPhase::Idle(since) => ConnectionPhase::Idle(self.written_after(since)),
            ConnectionPhase::Head(since) => ConnectionPhase::Head(self.written_after(since)),
            ConnectionPhase::New(_) | ConnectionPhase::InHand(_) => phase,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.lock().1 == Version::HTTP_2
    }

    /// Waits for the first request of HTTP/2, whose client can be told to send no other.
    pub(super) async fn http2(&self) {
        poll_fn(|cx| {
            self.http2.register(cx.waker());
            match *self.lock() {
                (ConnectionPhase::New(_), _) => Poll::Pending,
                (_, Version::HTTP_2) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Notes that bytes have arrived.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        if let (ConnectionPhase::Idle(_), Version::HTTP_10 | Version::HTTP_11) = *state {
            state.0 = ConnectionPhase::Head(self.rt.now());
        }
    }

    /// Notes that a request has arrived. It is answered when the result is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Answering {
        let mut state = self.lock();
        let others = if let ConnectionPhase::InHand(requests) = state.0 { requests } else { 0 };
        *state = (ConnectionPhase::InHand(others + 1), version);
        drop(state);
        if version == Version::HTTP_2 {
            self.http2.wake();
        }
        Answering(Arc::clone(self))
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.0 = match state.0 {
            ConnectionPhase::InHand(requests) if requests > 1 => {
                ConnectionPhase::InHand(requests - 1)
            }
            _ => ConnectionPhase::Idle(self.0.rt.now()),
        };
        drop(state);
        self.0.rest.wake();
    }
}
