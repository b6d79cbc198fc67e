//! What the lock protects, and what the first frame means.

use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Mode;
use super::arrivals::Arrivals;
use super::meaning::Meaning;
use super::pause::Pause;
use super::room::Room;
use super::spinning::Spinning;
use crate::ipc::Ended;
use crate::ipc::answers::{Answer, Answers, Delivery};
use crate::ipc::body::Body;
use crate::ipc::frame::Inbox;
use crate::ipc::header::{Header, Number};
use crate::ipc::limits::Limits;
use crate::ipc::outbox::Outbox;

/// Who reads the socket and gets its wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Background,
    Caller(Number),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) inbox: Inbox,
    pub(super) arrivals: Arrivals,
    pub(super) outbox: Outbox,
    pub(super) answers: Answers,
    pub(super) reader: Reader,
    /// The background task, while it sleeps.
    pub(super) background: Option<Waker>,
    pub(super) room: Room,
    pub(super) meaning: Meaning,
    pub(super) partial_since: Option<Instant>,
    pub(super) unsent_since: Option<Instant>,
    /// Until when nothing is sent, because the kernel takes no descriptors at the moment.
    pub(super) crowded_until: Option<Instant>,
    pub(super) ended: Option<Ended>,
    /// Of callers that poll for their responses.
    pub(super) spinning: Spinning,
    /// Set while no request of the peer is begun.
    pub(super) pause: Option<Box<Pause>>,
}

/// Wakers to be woken when the lock is gone.
#[derive(Default)]
pub(super) struct Wakes {
    pub(super) background: Option<Waker>,
    pub(super) callers: Vec<Waker>,
}

impl Wakes {
    pub(super) fn wake(self) {
        if let Some(waker) = self.background {
            waker.wake();
        }
        for waker in self.callers {
            waker.wake();
        }
    }
}

const UNKNOWN_FRAME: Ended = Ended::Violation("a frame of no known kind");

const MISCOUNTED: Ended = Ended::Violation("not as many descriptors as the frame says");

/// What the first frame is, as far as routing needs to know.
pub(super) enum Kind {
    Answer { number: Number, body: Range<usize>, refused: bool },
    Incoming { header: Header, body: Range<usize> },
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            inbox: Inbox::new(limits.frame),
            arrivals: Arrivals::default(),
            outbox: Outbox::new(limits.frame),
            answers: Answers::default(),
            reader: Reader::Background,
            background: None,
            room: Room::default(),
            meaning: Meaning::default(),
            partial_since: None,
            unsent_since: None,
            crowded_until: None,
            ended: None,
            spinning: Spinning::default(),
            pause: None,
        }
    }

    pub(super) fn next_frame(&self, mode: Mode) -> Result<Option<(Range<usize>, Kind)>, Ended> {
        let Some(frame) = self.inbox.frame()? else {
            return Ok(None);
        };
        let kind = match mode {
            Mode::PlainServer => {
                let header = Header::Request { number: 0, patience: None };
                Kind::Incoming { header, body: frame.clone() }
            }
            Mode::PlainClient => match self.answers.first_in_turn() {
                Some(number) => Kind::Answer { number, body: frame.clone(), refused: false },
                None => Kind::Incoming { header: Header::Notice, body: frame.clone() },
            },
            Mode::Calls => {
                let payload = self.inbox.payload(frame.clone());
                let (header, count, body) = Header::parse(payload).ok_or(UNKNOWN_FRAME)?;
                if usize::from(count) != self.arrivals.count() {
                    return Err(MISCOUNTED);
                }
                let body = frame.end - body.len()..frame.end;
                match header {
                    Header::Answer { number } => Kind::Answer { number, body, refused: false },
                    Header::Refusal { number } => Kind::Answer { number, body, refused: true },
                    header => Kind::Incoming { header, body },
                }
            }
        };
        Ok(Some((frame, kind)))
    }

    pub(super) fn consume(&mut self, frame: &Range<usize>) {
        self.inbox.consume(frame);
        self.arrivals.consumed();
        self.answers.first_has_come();
        self.partial_since = None;
    }

    pub(super) fn deliver(
        &mut self,
        number: Number,
        body: Range<usize>,
        refused: bool,
        now: impl FnOnce() -> Instant,
        wakes: &mut Wakes,
    ) -> Result<(), Ended> {
        let body = Body { bytes: self.inbox.payload(body), descriptors: self.arrivals.take() };
        let size = body.bytes.len();
        match self.answers.deliver(number, Answer::new(body, refused)) {
            Delivery::Awaited(waker) => wakes.callers.extend(waker),
            Delivery::Unawaited => self.meaning.unawaited(size, now)?,
        }
        Ok(())
    }

    /// The background task has nothing to do until it is woken.
    pub(super) fn sleep<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &mut self.background {
            Some(known) => known.clone_from(cx.waker()),
            unknown => *unknown = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Has the background task look again, once the lock is gone.
    pub(super) fn wake_background(&mut self, wakes: &mut Wakes) {
        if let Some(waker) = self.background.take() {
            wakes.background = Some(waker);
        }
    }

    pub(super) fn end(&mut self, why: Ended, wakes: &mut Wakes) {
        self.ended.get_or_insert(why);
        self.arrivals.close();
        self.outbox.close_descriptors();
        self.reader = Reader::Background;
        (self.partial_since, self.unsent_since, self.crowded_until) = (None, None, None);
        self.wake_background(wakes);
        self.room.wake_all(wakes);
        if let Some(pause) = &mut self.pause {
            pause.ended(wakes);
        }
        self.answers.wake_all(&mut wakes.callers);
    }
}
