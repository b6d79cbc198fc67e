//! The state of a paused link, which starts no new requests so that it can be handed over.

use std::task::Waker;

use super::room::Wakes;
use crate::ipc::limits::{Limits, MAX_IN_FLIGHT};
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::sys::untrusted::Untrusted;

/// The additional state of a paused link.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// Set if nothing is sent or received, because a copy of the state must stay valid.
    pub(super) is_frozen: bool,
    /// Number of requests being answered, as reported by the background task.
    pub(super) unfinished: Option<usize>,
    /// The task that waits until there are none.
    pub(super) waiter: Option<Waker>,
    pub(super) aside: Aside,
}

/// Frames of the peer that wait for the end of the pause. They precede those in the inbox.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) frames: Vec<HeldFrame>,
    pub(super) bytes: usize,
    pub(super) descriptors: usize,
}

#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) header: Header,
    pub(super) frame: Vec<u8>,
    pub(super) descriptors: Vec<Untrusted>,
    pub(super) is_lost: bool,
}

impl Aside {
    pub(super) fn push(&mut self, held: HeldFrame) {
        self.bytes += held.frame.len();
        self.descriptors += held.descriptors.len();
        self.frames.push(held);
    }

    /// Removes a request that the peer cancels. The peer no longer counts the request and its
    /// descriptors, and may send others.
    pub(super) fn give_up(&mut self, given_up: RequestNumber) -> bool {
        let is_it = |held: &HeldFrame| match held.header {
            Header::Request { number, .. } | Header::Service { number } => number == given_up,
            _ => false,
        };
        let Some(index) = self.frames.iter().position(is_it) else {
            return false;
        };
        let held = self.frames.remove(index);
        self.bytes -= held.frame.len();
        self.descriptors -= held.descriptors.len();
        true
    }
}

impl Pause {
    pub(super) fn may_read(&self, limits: &Limits) -> bool {
        let Aside { frames, bytes, descriptors } = &self.aside;
        !self.is_frozen
            && *bytes <= limits.unsent
            && frames.len() < MAX_IN_FLIGHT
            && *descriptors <= limits.aside_descriptors()
    }

    pub(super) fn report(&mut self, unfinished: usize, wakes: &mut Wakes) {
        self.unfinished = Some(unfinished);
        if unfinished == 0 {
            self.ended(wakes);
        }
    }

    /// Wakes the waiting task.
    pub(super) fn ended(&mut self, wakes: &mut Wakes) {
        wakes.add(self.waiter.take());
    }
}
