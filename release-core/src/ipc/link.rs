//! A framed socket that many tasks share: who reads, who writes, whose answer came.
//!
//! There is no reader task between the socket and a caller. A caller that is alone reads the socket
//! itself, so its answer costs one wake-up; when several wait, the connection's background task
//! reads for all of them. Requests of the peer are always the background task's: a caller that
//! meets one steps back. All frames are cut and told apart under one lock, in the order of the
//! stream; a future that is dropped leaves no trace in it.
//!
//! The runtime holds one and the same waker for reading all the time, which passes a wake-up on to
//! whoever reads at the moment: changing the reader costs no system call on any runtime.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use nix::sys::socket::{Shutdown, shutdown};

use super::answers::{Answer, Answers};
use super::frame::{Inbox, Outbox};
use super::header::{Header, Number};
use super::socket::{Received, receive, transmit};
use super::{Ended, FrameTooLong};
use crate::rt::{Direction, Io, Rt};

/// How many frames a task handles before others have their turn: a peer that sends without end
/// must not have the executor for itself.
pub(super) const FRAMES_PER_TURN: usize = 64;

/// What a connection grants its peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest payload, in bytes.
    pub(crate) frame: u32,
    /// How long a frame may take from its first byte to its last.
    pub(crate) frame_time: Duration,
    /// How many bytes may wait for a peer that does not read before nothing more is queued for it
    /// and its requests are put off; and how many bytes unanswered requests may have together.
    /// One message may go beyond it.
    pub(crate) unsent: usize,
    /// How long they may wait without any progress.
    pub(crate) unsent_time: Duration,
}

impl Limits {
    /// Between master and worker.
    pub(crate) const IPC: Self = Self {
        frame: super::DEFAULT_FRAME_LIMIT,
        frame_time: Duration::from_secs(10),
        unsent: 1024 * 1024,
        unsent_time: Duration::from_secs(30),
    };
}

/// What the frames of a connection mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every payload begins with a [`Header`].
    Calls,
    /// Payloads are answers in the order of the requests, or, when none is awaited, messages.
    PlainClient,
    /// Payloads are requests.
    PlainServer,
}

/// A frame that is not an answer to this side.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Hello(&'a [u8]),
    Ready,
    Request { number: Number, patience: Option<Duration>, body: &'a [u8] },
    Notice(&'a [u8]),
    Cancel { number: Number },
}

/// Who reads the socket and gets its wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Background,
    Caller(Number),
}

#[derive(Debug)]
pub(crate) struct Link {
    io: Io,
    mode: Mode,
    limits: Limits,
    rt: Rt,
    /// Where the wake-ups of the socket go.
    readable: Arc<Readable>,
    /// What the runtime is given: wakes `readable`.
    waker: Waker,
    state: Mutex<State>,
}

/// Passes a wake-up on to whoever reads.
#[derive(Debug, Default)]
struct Readable(AtomicWaker);

impl Wake for Readable {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    outbox: Outbox,
    answers: Answers,
    reader: Reader,
    /// The background task, while it sleeps.
    background: Option<Waker>,
    /// Callers that wait for room in the outbox or among the requests in flight.
    room: Vec<Waker>,
    partial_since: Option<Instant>,
    unsent_since: Option<Instant>,
    ended: Option<Ended>,
}

/// Wakers to be woken when the lock is gone.
#[derive(Default)]
struct Wakes {
    background: Option<Waker>,
    callers: Vec<Waker>,
}

impl Wakes {
    fn wake(self) {
        if let Some(waker) = self.background {
            waker.wake();
        }
        for waker in self.callers {
            waker.wake();
        }
    }
}

impl Link {
    pub(crate) fn new(rt: &Rt, socket: OwnedFd, mode: Mode, limits: Limits) -> io::Result<Self> {
        let readable = Arc::new(Readable::default());
        Ok(Self {
            io: rt.register(socket)?,
            mode,
            limits,
            rt: rt.clone(),
            waker: Waker::from(Arc::clone(&readable)),
            readable,
            state: Mutex::new(State {
                inbox: Inbox::new(limits.frame),
                outbox: Outbox::new(limits.frame),
                answers: Answers::default(),
                reader: Reader::Background,
                background: None,
                room: Vec::new(),
                partial_since: None,
                unsent_since: None,
                ended: None,
            }),
        })
    }

    pub(crate) fn rt(&self) -> &Rt {
        &self.rt
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A decoder that panicked has changed nothing: frames are consumed after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something under the lock, and wakes whom it concerns afterwards.
    fn with<T>(&self, change: impl FnOnce(&mut State, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let done = change(&mut self.lock(), &mut wakes);
        wakes.wake();
        done
    }

    /// Ends the connection for both sides, at once.
    pub(crate) fn end(&self, why: Ended) {
        self.with(|state, wakes| self.end_locked(state, why, wakes));
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// Whether the peer answers requests at all.
    pub(crate) fn can_ask(&self) -> bool {
        self.mode != Mode::PlainServer
    }

    /// Queues a request when there is room for it, and sends it at once when it is alone.
    pub(crate) fn poll_request<E: From<Ended> + From<FrameTooLong>>(
        &self,
        cx: &mut Context<'_>,
        patience: Option<Duration>,
        encode: &mut dyn FnMut(&mut Vec<u8>) -> Result<(), E>,
    ) -> Poll<Result<Number, E>> {
        self.with(|state, wakes| {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone().into()));
            }
            if self.is_full(state) || !state.answers.have_room(self.limits.unsent) {
                state.room.push(cx.waker().clone());
                return Poll::Pending;
            }
            let number = state.answers.expect(self.mode == Mode::PlainClient);
            let pushed = state.outbox.push(|payload| {
                if self.mode == Mode::Calls {
                    Header::Request { number, patience }.write(payload);
                }
                encode(payload)
            });
            if let Err(error) = pushed {
                state.answers.take_back(number);
                return Poll::Ready(Err(error));
            }
            state.answers.set_size(number, state.outbox.last_length());
            if state.answers.is_alone() {
                self.flush(state, wakes);
            } else {
                // Others ask in this turn of the executor too: their frames leave in one call.
                state.wake_background(wakes);
            }
            Poll::Ready(Ok(number))
        })
    }

    /// Waits for the answer to a request, reading the socket if nobody else does.
    pub(crate) fn poll_answer<T>(
        &self,
        cx: &mut Context<'_>,
        number: Number,
        take: &mut dyn FnMut(Answer<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        self.with(|state, wakes| {
            let polled = self.poll_caller(state, cx, number, take, wakes);
            if polled.is_ready() {
                self.forget(state, number, wakes);
            }
            polled
        })
    }

    fn poll_caller<T>(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
        number: Number,
        take: &mut dyn FnMut(Answer<'_>) -> T,
        wakes: &mut Wakes,
    ) -> Poll<Result<T, Ended>> {
        if let Some(answer) = state.answers.delivered(number) {
            return Poll::Ready(Ok(take(answer)));
        }
        if state.reader != Reader::Caller(number) && !self.may_read(state) {
            state.answers.wait(number, cx.waker());
            return state.ended.clone().map_or(Poll::Pending, |ended| Poll::Ready(Err(ended)));
        }
        state.reader = Reader::Caller(number);
        for _ in 0..FRAMES_PER_TURN {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            match state.next_frame(self.mode) {
                Ok(Some((frame, Kind::Answer { number: to, body, refused }))) => {
                    if to == number {
                        let taken = take(Answer::new(state.inbox.payload(body), refused));
                        state.consume(&frame);
                        return Poll::Ready(Ok(taken));
                    }
                    state.deliver(to, body, refused, wakes);
                    state.consume(&frame);
                }
                Ok(Some((_, Kind::Incoming))) => {
                    state.reader = Reader::Background;
                    state.answers.wait(number, cx.waker());
                    state.wake_background(wakes);
                    return Poll::Pending;
                }
                Ok(None) => {
                    if self.poll_receive(state, cx, wakes).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(why) => self.end_locked(state, why, wakes),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A caller reads when it is the only one: for several, the background task does.
    fn may_read(&self, state: &State) -> bool {
        state.ended.is_none() && state.reader == Reader::Background && state.answers.is_alone()
    }

    /// The caller of `number` has gone: its answer, whenever it comes, is nobody's.
    pub(crate) fn abandon(&self, number: Number) {
        self.with(|state, wakes| {
            let cancel = self.mode == Mode::Calls
                && state.ended.is_none()
                && state.answers.is_unanswered(number)
                && !self.is_full(state);
            self.forget(state, number, wakes);
            if cancel {
                let _ = state.outbox.push::<FrameTooLong>(|payload| {
                    Header::Cancel { number }.write(payload);
                    Ok(())
                });
                self.flush(state, wakes);
            }
        });
    }

    /// Takes a caller out: what it held is free for others, and reading is the background's again.
    fn forget(&self, state: &mut State, number: Number, wakes: &mut Wakes) {
        state.answers.forget(number);
        wakes.callers.append(&mut state.room);
        if state.reader != Reader::Caller(number) {
            return;
        }
        state.reader = Reader::Background;
        // Usually nothing else has come, and the background task can sleep on: it is registered for
        // what comes next without being run.
        let idle = state.ended.is_none() && state.inbox.is_empty();
        let Some(background) = state.background.take() else {
            return;
        };
        if idle
            && self.poll_receive(state, &mut Context::from_waker(&background), wakes).is_pending()
        {
            state.background = Some(background);
        } else {
            wakes.background = Some(background);
        }
    }

    /// The background task's turn: sends what is queued, and gives the next frame that is not an
    /// answer.
    pub(crate) fn poll_incoming<T>(
        &self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        self.with(|state, wakes| self.poll_background(state, cx, take, wakes))
    }

    fn poll_background<T>(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
        wakes: &mut Wakes,
    ) -> Poll<Result<T, Ended>> {
        for _ in 0..FRAMES_PER_TURN {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            let others_turn = state.reader != Reader::Background;
            match if others_turn { Ok(None) } else { state.next_frame(self.mode) } {
                Ok(Some((frame, Kind::Answer { number, body, refused }))) => {
                    state.deliver(number, body, refused, wakes);
                    state.consume(&frame);
                }
                Ok(Some((frame, Kind::Incoming))) => {
                    match incoming(self.mode, state.inbox.payload(frame.clone())).map(&mut *take) {
                        Some(taken) => {
                            state.consume(&frame);
                            return Poll::Ready(Ok(taken));
                        }
                        None => self.end_locked(state, UNKNOWN_FRAME, wakes),
                    }
                }
                Ok(None) => {
                    // All that came is handled: now the answers leave, in one call.
                    let _ = self.poll_send(state, cx, wakes);
                    if state.ended.is_none()
                        && (others_turn || self.poll_receive(state, cx, wakes).is_pending())
                    {
                        return state.sleep(cx);
                    }
                }
                Err(why) => self.end_locked(state, why, wakes),
            }
        }
        cx.waker().wake_by_ref();
        state.sleep(cx)
    }

    /// Reads once. Ready means: look again, there are more bytes or the connection has ended.
    fn poll_receive(&self, state: &mut State, cx: &mut Context<'_>, wakes: &mut Wakes) -> Poll<()> {
        self.readable.0.register(cx.waker());
        let mut cx = Context::from_waker(&self.waker);
        let space = state.inbox.space();
        let received = self.io.poll(&mut cx, Direction::Read, |fd| receive(fd, &mut *space));
        match received {
            Poll::Pending => {
                if state.partial_since.is_none() && state.inbox.is_partial() {
                    state.partial_since = Some(self.rt.now());
                    // The background task keeps the time, whoever reads.
                    state.wake_background(wakes);
                }
                return Poll::Pending;
            }
            Poll::Ready(Ok(Received::Bytes(count))) => state.inbox.received(count),
            Poll::Ready(Ok(Received::End)) if state.inbox.is_partial() => {
                self.end_locked(state, Ended::Truncated, wakes);
            }
            Poll::Ready(Ok(Received::End)) => self.end_locked(state, Ended::Closed, wakes),
            Poll::Ready(Ok(Received::Descriptors)) => {
                let why = Ended::Violation("descriptors that nobody asked for");
                self.end_locked(state, why, wakes);
            }
            Poll::Ready(Err(error)) => self.end_locked(state, error.into(), wakes),
        }
        Poll::Ready(())
    }

    /// Queues a frame that is not a request; it leaves with the next flush.
    pub(crate) fn queue<E: From<Ended> + From<FrameTooLong>>(
        &self,
        header: Option<Header>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone().into());
        }
        state.outbox.push(|payload| {
            if let Some(header) = header {
                header.write(payload);
            }
            encode(payload)
        })
    }

    /// The header of a message that wants no answer, where frames have headers.
    pub(crate) fn notice(&self) -> Option<Header> {
        (self.mode == Mode::Calls).then_some(Header::Notice)
    }

    /// Whether so much waits for the peer that nothing more should be queued.
    pub(crate) fn is_choked(&self) -> bool {
        self.is_full(&self.lock())
    }

    fn is_full(&self, state: &State) -> bool {
        state.outbox.unsent().len() > self.limits.unsent
    }

    /// Sends what is queued as far as the socket takes it; the background task sends the rest.
    pub(crate) fn flush_now(&self) {
        self.with(|state, wakes| self.flush(state, wakes));
    }

    fn flush(&self, state: &mut State, wakes: &mut Wakes) {
        // What waits already waits for the background task to see room.
        if state.unsent_since.is_some() {
            return;
        }
        while !state.outbox.is_empty() {
            match transmit(self.io.as_fd(), state.outbox.unsent()) {
                Ok((count, _)) => state.outbox.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.unsent_since = Some(self.rt.now());
                    return state.wake_background(wakes);
                }
                Err(error) => return self.write_failed(state, error, wakes),
            }
        }
    }

    /// The background task's write alone, for those who do not read meanwhile.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state, wakes| self.poll_send(state, cx, wakes))
    }

    /// Sends what is queued, and waits for room for the rest.
    fn poll_send(&self, state: &mut State, cx: &mut Context<'_>, wakes: &mut Wakes) -> Poll<()> {
        while !state.outbox.is_empty() {
            let unsent = state.outbox.unsent();
            match self.io.poll(cx, Direction::Write, |fd| transmit(fd, unsent)) {
                Poll::Ready(Ok(count)) => {
                    state.outbox.sent(count);
                    state.unsent_since = None;
                    if !self.is_full(state) {
                        wakes.callers.append(&mut state.room);
                    }
                }
                Poll::Ready(Err(error)) => self.write_failed(state, error, wakes),
                Poll::Pending => {
                    state.unsent_since.get_or_insert_with(|| self.rt.now());
                    return Poll::Pending;
                }
            }
        }
        state.unsent_since = None;
        Poll::Ready(())
    }

    /// A peer that no longer reads may have sent its last answers: they are read before the end.
    fn write_failed(&self, state: &mut State, error: io::Error, wakes: &mut Wakes) {
        let unsent = state.outbox.unsent().len();
        state.outbox.sent(unsent);
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            self.end_locked(state, error.into(), wakes);
        }
    }

    fn end_locked(&self, state: &mut State, why: Ended, wakes: &mut Wakes) {
        state.end(why, wakes);
        wakes.callers.extend(self.readable.0.take());
        let _ = shutdown(self.io.as_fd().as_raw_fd(), Shutdown::Both);
    }

    /// Until when the peer has to finish a frame or read something, and what it is called if not.
    pub(crate) fn deadline(&self) -> Option<(Instant, Ended)> {
        let state = self.lock();
        let frame = state.partial_since.map(|since| since + self.limits.frame_time);
        let unsent = state.unsent_since.map(|since| since + self.limits.unsent_time);
        match (frame, unsent) {
            (Some(frame), Some(unsent)) if unsent < frame => Some((unsent, Ended::NotReading)),
            (Some(frame), _) => Some((frame, Ended::FrameTimeout)),
            (None, unsent) => unsent.map(|unsent| (unsent, Ended::NotReading)),
        }
    }
}

const UNKNOWN_FRAME: Ended = Ended::Violation("a frame of no known kind");

/// What the first frame is, as far as routing needs to know.
enum Kind {
    Answer { number: Number, body: Range<usize>, refused: bool },
    Incoming,
}

impl State {
    fn next_frame(&self, mode: Mode) -> Result<Option<(Range<usize>, Kind)>, Ended> {
        let Some(frame) = self.inbox.frame()? else {
            return Ok(None);
        };
        let kind = match mode {
            Mode::PlainServer => Kind::Incoming,
            Mode::PlainClient => match self.answers.first_in_turn() {
                Some(number) => Kind::Answer { number, body: frame.clone(), refused: false },
                None => Kind::Incoming,
            },
            Mode::Calls => {
                let payload = self.inbox.payload(frame.clone());
                let (header, body) = Header::parse(payload).ok_or(UNKNOWN_FRAME)?;
                let body = frame.end - body.len()..frame.end;
                match header {
                    Header::Answer { number } => Kind::Answer { number, body, refused: false },
                    Header::Refusal { number } => Kind::Answer { number, body, refused: true },
                    _ => Kind::Incoming,
                }
            }
        };
        Ok(Some((frame, kind)))
    }

    fn consume(&mut self, frame: &Range<usize>) {
        self.inbox.consume(frame);
        self.answers.first_has_come();
        self.partial_since = None;
    }

    fn deliver(&mut self, number: Number, body: Range<usize>, refused: bool, wakes: &mut Wakes) {
        let answer = Answer::new(self.inbox.payload(body), refused);
        wakes.callers.extend(self.answers.deliver(number, answer));
    }

    /// The background task has nothing to do until it is woken.
    fn sleep<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &mut self.background {
            Some(known) => known.clone_from(cx.waker()),
            unknown => *unknown = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Has the background task look again, once the lock is gone.
    fn wake_background(&mut self, wakes: &mut Wakes) {
        if let Some(waker) = self.background.take() {
            wakes.background = Some(waker);
        }
    }

    fn end(&mut self, why: Ended, wakes: &mut Wakes) {
        self.ended.get_or_insert(why);
        self.reader = Reader::Background;
        (self.partial_since, self.unsent_since) = (None, None);
        self.wake_background(wakes);
        wakes.callers.append(&mut self.room);
        self.answers.wake_all(&mut wakes.callers);
    }
}

/// The meaning of a frame that is not an answer; `None` if it has none.
fn incoming(mode: Mode, payload: &[u8]) -> Option<Incoming<'_>> {
    match mode {
        Mode::PlainServer => Some(Incoming::Request { number: 0, patience: None, body: payload }),
        Mode::PlainClient => Some(Incoming::Notice(payload)),
        Mode::Calls => match Header::parse(payload)? {
            (Header::Hello, body) => Some(Incoming::Hello(body)),
            (Header::Ready, _) => Some(Incoming::Ready),
            (Header::Request { number, patience }, body) => {
                Some(Incoming::Request { number, patience, body })
            }
            (Header::Notice, body) => Some(Incoming::Notice(body)),
            (Header::Cancel { number }, _) => Some(Incoming::Cancel { number }),
            (Header::Answer { .. } | Header::Refusal { .. }, _) => None,
        },
    }
}
