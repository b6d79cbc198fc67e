//! `Activity`: the present phase of a connection, for its time limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::Version;

use crate::rt::Rt;

/// The phases of a connection, as its stream and its service report them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// No request has come since the connection was accepted.
    New(Instant),
    /// All requests are answered.
    Idle(Instant),
    /// The head of a request has begun to arrive on HTTP/1.
    Head(Instant),
    /// So many requests are being answered.
    InHand(usize),
}

/// The phase of a connection.
pub(super) struct Activity {
    rt: Rt,
    state: Mutex<(Phase, Version)>,
}

impl Activity {
    pub(super) fn new(rt: &Rt) -> Self {
        let state = Mutex::new((Phase::New(rt.now()), Version::HTTP_11));
        Self { rt: rt.clone(), state }
    }

    fn lock(&self) -> MutexGuard<'_, (Phase, Version)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().0
    }

    pub(super) fn is_http2(&self) -> bool {
        self.lock().1 == Version::HTTP_2
    }

    /// Notes that bytes have arrived.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        if let (Phase::Idle(_), Version::HTTP_10 | Version::HTTP_11) = *state {
            state.0 = Phase::Head(self.rt.now());
        }
    }

    /// Notes that a request has arrived. It is answered when the result is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Answering {
        let mut state = self.lock();
        let others = if let Phase::InHand(requests) = state.0 { requests } else { 0 };
        *state = (Phase::InHand(others + 1), version);
        Answering(Arc::clone(self))
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.0 = match state.0 {
            Phase::InHand(requests) if requests > 1 => Phase::InHand(requests - 1),
            _ => Phase::Idle(self.0.rt.now()),
        };
    }
}
