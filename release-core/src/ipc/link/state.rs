//! The state of a link, which its lock protects, and the kind of its first frame.

use std::mem;
use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::answers::{Answer, AnswerKind, Answers, Delivery};
use super::arrivals::Arrivals;
use super::expectations::Expectations;
use super::notes::Note;
use super::pause::{Aside, HeldFrame, Pause};
use super::readable::SocketReader;
use super::rings::{RingFrame, Rings};
use super::room::{RoomQueue, Wakes};
use super::spinning::Spinning;
use crate::ipc::Ended;
use crate::ipc::limits::Limits;
use crate::ipc::wire::body::Body;
use crate::ipc::wire::frame::Inbox;
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::wire::outbox::Outbox;

/// The mode of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each payload starts with a [`Header`].
    Calls,
    /// Payloads are answers in the order of the requests. Without a waiting call, they are
    /// messages.
    PlainClient,
    /// Payloads are requests.
    PlainServer,
}

/// A received frame that is not an answer. In plain mode it is a request or, for a client, a
/// notice.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) header: Header,
    pub(crate) body: Body<'a>,
}

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) inbox: Inbox,
    pub(super) arrivals: Arrivals,
    pub(super) outbox: Outbox,
    pub(super) rings: Rings,
    pub(super) answers: Answers,
    pub(super) reader: SocketReader,
    /// The waker of the background task while it sleeps.
    pub(super) background: Option<Waker>,
    pub(super) room: RoomQueue,
    pub(super) expectations: Expectations,
    pub(super) partial_since: Option<Instant>,
    pub(super) unsent_since: Option<Instant>,
    /// The time of the next attempt to send, after the kernel accepted no more descriptors.
    pub(super) crowded_until: Option<Instant>,
    pub(super) ended: Option<Ended>,
    /// The time of the last message without an answer.
    pub(super) last_notice: Option<Instant>,
    /// Of callers that poll for their responses.
    pub(super) spinning: Spinning,
    /// Tasks to wake when the lock is released.
    pub(super) wakes: Wakes,
    /// Set while no request of the peer is started.
    pub(super) pause: Option<Box<Pause>>,
}

const UNKNOWN_FRAME: Ended = Ended::Violation("a frame of no known kind");

const MISCOUNTED: Ended = Ended::Violation("not as many descriptors as the frame says");

/// The kind of the first frame, for routing.
pub(super) enum FrameKind {
    Answer { number: RequestNumber, body: Range<usize>, kind: AnswerKind },
    Incoming { header: Header, body: Range<usize> },
    Ring(RingFrame),
}

impl LinkState {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            inbox: Inbox::new(limits.frame),
            arrivals: Arrivals::default(),
            outbox: Outbox::new(limits.frame),
            rings: Rings::default(),
            answers: Answers::default(),
            reader: SocketReader::Background,
            background: None,
            room: RoomQueue::default(),
            expectations: Expectations::default(),
            partial_since: None,
            unsent_since: None,
            crowded_until: None,
            ended: None,
            last_notice: None,
            spinning: Spinning::default(),
            wakes: Wakes::default(),
            pause: None,
        }
    }

    /// Returns the first frame, if one has arrived.
    #[inline]
    pub(super) fn next_frame(
        &mut self,
        mode: Mode,
        descriptors: usize,
    ) -> Result<Option<(Range<usize>, FrameKind)>, Ended> {
        // Usually the last frame was the only one.
        if self.inbox.is_empty() { Ok(None) } else { self.received_frame(mode, descriptors) }
    }

    fn received_frame(
        &mut self,
        mode: Mode,
        descriptors: usize,
    ) -> Result<Option<(Range<usize>, FrameKind)>, Ended> {
        let frame = loop {
            match self.inbox.frame()? {
                Some(frame) if frame.is_empty() && self.turn(&frame)? => {}
                Some(frame) => break frame,
                None => return Ok(None),
            }
        };
        let kind = match mode {
            Mode::PlainServer => {
                let header = Header::Request { number: 0, timeout: None };
                FrameKind::Incoming { header, body: frame.clone() }
            }
            Mode::PlainClient => match self.answers.first_in_turn() {
                Some(number) => {
                    FrameKind::Answer { number, body: frame.clone(), kind: AnswerKind::Given }
                }
                None => FrameKind::Incoming { header: Header::Notice, body: frame.clone() },
            },
            Mode::Calls => {
                let payload = self.inbox.payload(frame.clone());
                let (header, count, body) = Header::parse(payload).ok_or(UNKNOWN_FRAME)?;
                self.check_count(header, count.into(), descriptors)?;
                let body = frame.end - body.len()..frame.end;
                let answer = |number, kind| FrameKind::Answer { number, body: body.clone(), kind };
                match header {
                    Header::Answer { number } | Header::ServiceAnswer { number } => {
                        answer(number, AnswerKind::Given)
                    }
                    Header::Refusal { number } => answer(number, AnswerKind::Refused),
                    Header::NotUnderstood { number } => answer(number, AnswerKind::NotUnderstood),
                    Header::Ring | Header::Cancel { number: 0 } => {
                        match RingFrame::parse(header, self.inbox.payload(body.clone())) {
                            Some(about) => FrameKind::Ring(about),
                            None => FrameKind::Incoming { header, body },
                        }
                    }
                    header => FrameKind::Incoming { header, body },
                }
            }
        };
        Ok(Some((frame, kind)))
    }

    /// Checks the number of the descriptors of a frame.
    fn check_count(&self, header: Header, count: usize, most: usize) -> Result<(), Ended> {
        // More than that arrive only with frames of the library, which have their own number.
        let is_limited = !matches!(
            header,
            Header::Outputs | Header::Ring | Header::Service { .. } | Header::ServiceAnswer { .. }
        );
        let is_whole = match self.arrivals.is_lost() {
            true => count > 0,
            false => count == self.arrivals.count(),
        };
        match is_whole && !(is_limited && count > most) {
            true => Ok(()),
            false => Err(MISCOUNTED),
        }
    }

    /// Continues on the other way after an empty frame. Returns false if there is no other way.
    fn turn(&mut self, frame: &Range<usize>) -> Result<bool, Ended> {
        if self.arrivals.count() > 0 || self.arrivals.is_lost() {
            return Err(MISCOUNTED);
        }
        if !self.rings.may_turn()? {
            return Ok(false);
        }
        self.inbox.consume(frame);
        self.arrivals.consumed();
        self.partial_since = None;
        self.rings.turn(&mut self.inbox, &mut self.arrivals);
        Ok(true)
    }

    pub(super) fn consume(&mut self, frame: &Range<usize>) {
        self.inbox.consume(frame);
        self.arrivals.consumed();
        self.answers.first_has_come();
        self.rings.consumed();
        self.partial_since = None;
    }

    pub(super) fn deliver(
        &mut self,
        number: RequestNumber,
        body: Range<usize>,
        kind: AnswerKind,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Ended> {
        let (bytes, is_lost) = (self.inbox.payload(body), self.arrivals.is_lost());
        let body = Body { bytes, descriptors: self.arrivals.take(), is_lost };
        let size = body.bytes.len();
        match self.answers.deliver(number, Answer::new(body, kind)) {
            Delivery::Awaited { waker, has_closed } => {
                self.wakes.add(waker);
                if has_closed {
                    self.wakes.note(Note::ClosedDescriptors);
                }
            }
            Delivery::Unawaited => self.expectations.unawaited(size, now)?,
        }
        Ok(())
    }

    /// Stores the waker of the background task, which has nothing to do.
    pub(super) fn sleep<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &mut self.background {
            Some(known) => known.clone_from(cx.waker()),
            unknown => *unknown = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Wakes the background task when the lock is released.
    pub(super) fn wake_background(&mut self) {
        if let Some(waker) = self.background.take() {
            self.wakes.background = Some(waker);
        }
    }

    pub(super) fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
        self.arrivals.close();
        self.outbox.close_descriptors();
        self.wakes.add(self.rings.end());
        self.reader = SocketReader::Background;
        (self.partial_since, self.unsent_since, self.crowded_until) = (None, None, None);
        self.wake_background();
        self.room.wake_all(&mut self.wakes);
        if let Some(pause) = &mut self.pause {
            pause.ended(&mut self.wakes);
        }
        self.wakes.add(self.answers.wakers());
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.is_frozen)
    }

    /// Returns true if the background task is the reader, and there is room for more frames.
    #[inline]
    pub(super) fn may_background_read(&self, limits: &Limits) -> bool {
        self.reader == SocketReader::Background
            && self.pause.as_ref().is_none_or(|pause| pause.may_read(limits))
    }

    /// Stores the first frame until the end of the pause, so that answers after it can be read. A
    /// cancelled request is removed at once. The cancellation of a request that was started is
    /// returned, so that its handler is stopped.
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
                _ => aside.push(HeldFrame {
                    header,
                    frame: self.inbox.with_header(frame).to_vec(),
                    is_lost: self.arrivals.is_lost(),
                    descriptors: self.arrivals.take(),
                }),
            }
        }
        self.consume(frame);
        heard
    }

    /// Puts stored frames back before later ones.
    pub(super) fn put_back(&mut self) {
        if let Some(pause) = &mut self.pause {
            let mut arrivals = Arrivals::default();
            let mut bytes = Vec::with_capacity(pause.aside.bytes);
            let Aside { frames, .. } = mem::take(&mut pause.aside);
            let count = frames.len();
            for (index, held) in frames.into_iter().enumerate() {
                bytes.extend_from_slice(&held.frame);
                if held.is_lost || !held.descriptors.is_empty() {
                    arrivals.add(index, held.descriptors);
                }
            }
            self.inbox.put_back(&bytes);
            self.arrivals.put_back(count, arrivals);
        }
    }

    /// Freezes the state: a copy of it stays valid, whatever the tasks of the link do.
    pub(super) fn freeze(&mut self) {
        self.put_back();
        self.reader = SocketReader::Background;
        self.pause.get_or_insert_default().is_frozen = true;
    }

    /// Ends the freeze, if no copy was made.
    pub(super) fn unfreeze(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.is_frozen = false;
        }
    }
}
