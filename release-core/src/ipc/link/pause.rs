//! A link that begins nothing new, so that it can be handed over.

use std::mem;
use std::ops::Range;
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker};

use super::arrivals::Arrivals;
use super::state::{Reader, State, Wakes};
use super::{Incoming, Link, socket};
use crate::ipc::answers::MAX_IN_FLIGHT;
use crate::ipc::body::Body;
use crate::ipc::header::{Header, Number};
use crate::ipc::limits::Limits;
use crate::sys::untrusted::Untrusted;

/// What a paused link has beside its other state.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// Nothing goes in or out: what was copied must stay true.
    is_frozen: bool,
    /// How many requests of the peer are being answered, as far as the background task has said.
    unfinished: Option<usize>,
    /// Who waits until there are none.
    waiter: Option<Waker>,
    aside: Aside,
}

/// Frames of the peer that wait for the end of the pause, before what is in the inbox.
#[derive(Debug, Default)]
struct Aside {
    frames: Vec<Held>,
    bytes: usize,
    descriptors: usize,
}

#[derive(Debug)]
struct Held {
    header: Header,
    frame: Vec<u8>,
    descriptors: Vec<Untrusted>,
}

impl Aside {
    fn push(&mut self, held: Held) {
        self.bytes += held.frame.len();
        self.descriptors += held.descriptors.len();
        self.frames.push(held);
    }

    /// Takes the request out that the peer gives up: for it, the request and its descriptors are
    /// no longer on their way, and others may follow.
    fn give_up(&mut self, given_up: Number) -> bool {
        let is_it = |held: &Held| matches!(held.header, Header::Request { number, .. } if number == given_up);
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
    fn may_read(&self, limits: Limits) -> bool {
        let Aside { frames, bytes, descriptors } = &self.aside;
        !self.is_frozen
            && *bytes <= limits.unsent
            && frames.len() < MAX_IN_FLIGHT
            && *descriptors <= limits.descriptors
    }

    pub(super) fn report(&mut self, unfinished: usize, wakes: &mut Wakes) {
        self.unfinished = Some(unfinished);
        if unfinished == 0 {
            self.ended(wakes);
        }
    }

    /// Nothing is to be waited for any more.
    pub(super) fn ended(&mut self, wakes: &mut Wakes) {
        wakes.callers.extend(self.waiter.take());
    }
}

impl State {
    pub(super) fn is_frozen(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.is_frozen)
    }

    /// Whether the background task may read: it is its turn, and there is room for what comes.
    pub(super) fn may_background_read(&self, limits: Limits) -> bool {
        self.reader == Reader::Background
            && self.pause.as_ref().is_none_or(|pause| pause.may_read(limits))
    }

    /// Keeps the first frame for later, and makes way for answers behind it. One that gives a request
    /// up is for now: nobody is to wait for its handler, and what was not begun never is.
    pub(super) fn set_aside(
        &mut self,
        header: Header,
        frame: &Range<usize>,
    ) -> Option<Incoming<'static>> {
        let mut heard = None;
        if let Some(Pause { aside, .. }) = self.pause.as_deref_mut() {
            match header {
                Header::Cancel { number } if aside.give_up(number) => {}
                Header::Cancel { .. } => {
                    heard = Some(Incoming { header, body: Body::default() });
                }
                _ => aside.push(Held {
                    header,
                    frame: self.inbox.with_header(frame).to_vec(),
                    descriptors: self.arrivals.take(),
                }),
            }
        }
        self.consume(frame);
        heard
    }

    /// Puts what was set aside before what came later.
    fn put_back(&mut self) {
        if let Some(pause) = &mut self.pause {
            let mut arrivals = Arrivals::default();
            let mut bytes = Vec::with_capacity(pause.aside.bytes);
            let Aside { frames, .. } = mem::take(&mut pause.aside);
            let count = frames.len();
            for (index, held) in frames.into_iter().enumerate() {
                bytes.extend_from_slice(&held.frame);
                if !held.descriptors.is_empty() {
                    arrivals.add(index, held.descriptors);
                }
            }
            self.inbox.put_back(&bytes);
            self.arrivals.put_back(count, arrivals);
        }
    }

    /// From now on nothing changes in what a copy holds, whatever the tasks of the link do.
    pub(super) fn freeze(&mut self) {
        self.put_back();
        self.reader = Reader::Background;
        self.pause.get_or_insert_default().is_frozen = true;
    }

    /// There is no copy after all.
    pub(super) fn unfreeze(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.is_frozen = false;
        }
    }
}

impl Link {
    /// Begins nothing that the peer asks from now on; what was begun is finished. Answers of the
    /// peer still arrive, because a handler may wait for one.
    pub(crate) fn pause(&self) {
        self.with(|state, wakes| {
            state.pause.get_or_insert_default();
            state.wake_background(wakes);
        });
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.lock().pause.is_some()
    }

    /// Waits until nothing is being answered, or the link has ended. One task at a time may wait.
    pub(crate) fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let has_ended = state.ended.is_some();
        match &mut state.pause {
            Some(pause) if !has_ended && pause.unfinished != Some(0) => {
                pause.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// How many requests of the peer are being answered, while it is paused; at least one when it
    /// is not known.
    pub(crate) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.pause.as_ref().map_or(0, |pause| pause.unfinished.unwrap_or(1))
    }

    /// Goes on, as if there had been no pause; also after [`Link::freeze`].
    pub(crate) fn resume(&self) {
        self.with(|state, wakes| {
            state.put_back();
            let was_frozen = state.is_frozen();
            if state.pause.take().is_some() && was_frozen && state.ended.is_some() {
                socket::close(self.io.as_fd());
            }
            state.wake_background(wakes);
            self.wake_for_room(state, wakes);
        });
    }
}
