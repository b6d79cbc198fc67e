//! A framed socket that many tasks share: who reads, who writes, whose answer came.
//!
//! There is no reader task between the socket and a caller. A caller that is alone reads the socket
//! itself, so its answer costs one wake-up; when several wait, the connection's background task
//! reads for all of them. Requests of the peer are always the background task's: a caller that
//! meets one steps back. All frames are cut and told apart under one lock, in the order of the
//! stream; a future that is dropped leaves no trace in it.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recvmsg, send, shutdown};

use super::answers::{Answer, Answers};
use super::frame::{Inbox, Outbox};
use super::header::{Header, Number};
use super::{Ended, FrameTooLong};
use crate::rt::{Direction, Io, Progress, Rt};

/// What a connection grants its peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest payload, in bytes.
    pub(crate) frame: u32,
    /// How long a frame may take from its first byte to its last.
    pub(crate) frame_time: Duration,
    /// How many bytes may wait for a peer that does not read before nothing more is queued for it,
    /// nor read from it.
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

/// How many requests of one side may be unanswered at a time.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

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
    Request {
        number: Number,
        patience: Option<Duration>,
        body: &'a [u8],
    },
    Notice(&'a [u8]),
    Cancel {
        number: Number,
    },
}

/// Who reads the socket, and whose waker the runtime holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Nobody,
    Background,
    Caller(Number),
}

#[derive(Debug)]
pub(crate) struct Link {
    io: Io,
    mode: Mode,
    limits: Limits,
    rt: Rt,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    outbox: Outbox,
    answers: Answers,
    reader: Reader,
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
    caller: Option<Waker>,
    many: Vec<Waker>,
}

impl Wakes {
    fn wake(self) {
        self.background
            .into_iter()
            .chain(self.caller)
            .chain(self.many)
            .for_each(Waker::wake);
    }

    fn add(&mut self, waker: Option<Waker>) {
        if self.caller.is_none() {
            self.caller = waker;
        } else {
            self.many.extend(waker);
        }
    }
}

impl Link {
    pub(crate) fn new(rt: &Rt, socket: OwnedFd, mode: Mode, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            io: rt.register(socket)?,
            mode,
            limits,
            rt: rt.clone(),
            state: Mutex::new(State {
                inbox: Inbox::new(limits.frame),
                outbox: Outbox::new(limits.frame),
                answers: Answers::default(),
                reader: Reader::Nobody,
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // A decoder that panicked has changed nothing: frames are consumed after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for both sides, at once.
    pub(crate) fn end(&self, why: Ended) {
        let mut wakes = Wakes::default();
        self.lock().end(why, &mut wakes);
        let _ = shutdown(self.io.as_fd().as_raw_fd(), Shutdown::Both);
        wakes.wake();
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// Queues a request when there is room for it, and sends it at once when it is alone.
    pub(crate) fn poll_request<E: From<Ended> + From<FrameTooLong>>(
        &self,
        cx: &mut Context<'_>,
        patience: Option<Duration>,
        encode: &mut dyn FnMut(&mut Vec<u8>) -> Result<(), E>,
    ) -> Poll<Result<Number, E>> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Poll::Ready(Err(ended.clone().into()));
        }
        if state.outbox.unsent().len() > self.limits.unsent || state.answers.len() >= MAX_IN_FLIGHT
        {
            state.room.push(cx.waker().clone());
            return Poll::Pending;
        }
        let number = state.answers.next_number();
        let pushed = state.outbox.push(|payload| {
            if self.mode == Mode::Calls {
                Header::Request { number, patience }.write(payload);
            }
            encode(payload)
        });
        if pushed.is_ok() {
            state.answers.expect(number, self.mode == Mode::PlainClient);
            if state.answers.is_alone() {
                self.flush(&mut state, &mut wakes);
            } else {
                // Others ask in this turn of the executor too: their frames leave in one call.
                state.wake_background(&mut wakes);
            }
        }
        drop(state);
        wakes.wake();
        Poll::Ready(pushed.map(|()| number))
    }

    /// Waits for the answer to a request, reading the socket if nobody else does.
    pub(crate) fn poll_answer<T>(
        &self,
        cx: &mut Context<'_>,
        number: Number,
        take: &mut dyn FnMut(Answer<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let polled = self.poll_caller(&mut state, cx, number, take, &mut wakes);
        if polled.is_ready() {
            state.forget(number, &mut wakes);
        }
        drop(state);
        wakes.wake();
        polled
    }

    fn poll_caller<T>(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
        number: Number,
        take: &mut dyn FnMut(Answer<'_>) -> T,
        wakes: &mut Wakes,
    ) -> Poll<Result<T, Ended>> {
        let me = Reader::Caller(number);
        loop {
            if let Some(answer) = state.answers.delivered(number) {
                return Poll::Ready(Ok(take(answer)));
            }
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            state.answers.wait(number, cx.waker());
            if state.reader != me {
                if matches!(state.reader, Reader::Caller(_)) {
                    return Poll::Pending;
                }
                if !state.answers.is_alone() {
                    // The background task reads for several; it may not know yet that it has to.
                    if state.reader == Reader::Nobody {
                        state.wake_background(wakes);
                    }
                    return Poll::Pending;
                }
                state.reader = me;
            }
            match state.next_frame(self.mode) {
                Ok(Some((
                    frame,
                    Kind::Answer {
                        number: to,
                        body,
                        refused,
                    },
                ))) => {
                    if to == number {
                        let taken = take(Answer::new(state.inbox.payload(body), refused));
                        state.consume(&frame);
                        return Poll::Ready(Ok(taken));
                    }
                    state.deliver(to, body, refused, wakes);
                    state.consume(&frame);
                }
                Ok(Some((_, Kind::Incoming))) => {
                    state.reader = Reader::Nobody;
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
    }

    /// The caller of `number` has gone: its answer, whenever it comes, is nobody's.
    pub(crate) fn abandon(&self, number: Number) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let cancel = self.mode == Mode::Calls
            && state.ended.is_none()
            && state.answers.is_awaited(number)
            && state.outbox.unsent().len() <= self.limits.unsent;
        state.forget(number, &mut wakes);
        if cancel {
            let _ = state.outbox.push::<FrameTooLong>(|payload| {
                Header::Cancel { number }.write(payload);
                Ok(())
            });
            self.flush(&mut state, &mut wakes);
        }
        drop(state);
        wakes.wake();
    }

    /// The background task's read: the next frame that is not an answer.
    pub(crate) fn poll_incoming<T>(
        &self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let polled = self.poll_background(&mut state, cx, take, &mut wakes);
        drop(state);
        wakes.wake();
        polled
    }

    fn poll_background<T>(
        &self,
        state: &mut State,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
        wakes: &mut Wakes,
    ) -> Poll<Result<T, Ended>> {
        loop {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            match &mut state.background {
                Some(known) => known.clone_from(cx.waker()),
                unknown => *unknown = Some(cx.waker().clone()),
            }
            // A peer that does not read its answers asks no more questions.
            let choked = state.outbox.unsent().len() > self.limits.unsent;
            if choked || matches!(state.reader, Reader::Caller(_)) {
                return Poll::Pending;
            }
            state.reader = Reader::Background;
            match state.next_frame(self.mode) {
                Ok(Some((
                    frame,
                    Kind::Answer {
                        number,
                        body,
                        refused,
                    },
                ))) => {
                    state.deliver(number, body, refused, wakes);
                    state.consume(&frame);
                }
                Ok(Some((frame, Kind::Incoming))) => {
                    let payload = state.inbox.payload(frame.clone());
                    let taken = incoming(self.mode, payload).map(&mut *take);
                    match taken {
                        Some(taken) => {
                            state.consume(&frame);
                            return Poll::Ready(Ok(taken));
                        }
                        None => self.end_locked(state, UNKNOWN_FRAME, wakes),
                    }
                }
                Ok(None) => {
                    if self.poll_receive(state, cx, wakes).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(why) => self.end_locked(state, why, wakes),
            }
        }
    }

    /// Reads once. Ready means: look again, there are more bytes or the connection has ended.
    fn poll_receive(&self, state: &mut State, cx: &mut Context<'_>, wakes: &mut Wakes) -> Poll<()> {
        let space = state.inbox.space();
        let Poll::Ready(received) = self
            .io
            .poll(cx, Direction::Read, |fd| receive(fd, &mut *space))
        else {
            if state.inbox.is_partial() && state.partial_since.is_none() {
                state.partial_since = Some(self.rt.now());
                // The background task keeps the time, whoever reads.
                state.wake_background(wakes);
            }
            return Poll::Pending;
        };
        match received {
            Ok(Received::Bytes(count)) => state.inbox.received(count),
            Ok(Received::End) if state.inbox.is_partial() => {
                self.end_locked(state, Ended::Truncated, wakes);
            }
            Ok(Received::End) => self.end_locked(state, Ended::Closed, wakes),
            Ok(Received::Descriptors) => {
                let why = Ended::Violation("descriptors that nobody asked for");
                self.end_locked(state, why, wakes);
            }
            Err(error) => self.end_locked(state, error.into(), wakes),
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
        self.lock().outbox.unsent().len() > self.limits.unsent
    }

    /// Sends what is queued as far as the socket takes it; the background task sends the rest.
    pub(crate) fn flush_now(&self) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        self.flush(&mut state, &mut wakes);
        drop(state);
        wakes.wake();
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
                    state.wake_background(wakes);
                    return;
                }
                Err(error) => return self.write_failed(state, error, wakes),
            }
        }
    }

    /// The background task's write: sends what is queued, and waits for room for the rest.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let polled = loop {
            if state.outbox.is_empty() {
                state.unsent_since = None;
                break Poll::Ready(());
            }
            let State { outbox, .. } = &mut *state;
            let sent = self
                .io
                .poll(cx, Direction::Write, |fd| transmit(fd, outbox.unsent()));
            match sent {
                Poll::Ready(Ok(count)) => {
                    outbox.sent(count);
                    state.unsent_since = None;
                    if state.outbox.unsent().len() <= self.limits.unsent {
                        wakes.many.append(&mut state.room);
                    }
                }
                Poll::Ready(Err(error)) => self.write_failed(&mut state, error, &mut wakes),
                Poll::Pending => {
                    let now = self.rt.now();
                    state.unsent_since.get_or_insert(now);
                    break Poll::Pending;
                }
            }
        };
        drop(state);
        wakes.wake();
        polled
    }

    /// A peer that no longer reads may have sent its last answers: they are read before the end.
    fn write_failed(&self, state: &mut State, error: io::Error, wakes: &mut Wakes) {
        let unsent = state.outbox.unsent().len();
        state.outbox.sent(unsent);
        if !matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ) {
            self.end_locked(state, error.into(), wakes);
        }
    }

    fn end_locked(&self, state: &mut State, why: Ended, wakes: &mut Wakes) {
        state.end(why, wakes);
        let _ = shutdown(self.io.as_fd().as_raw_fd(), Shutdown::Both);
    }

    /// Until when the peer has to finish a frame or read something, and what it is called if not.
    pub(crate) fn deadline(&self) -> Option<(Instant, Ended)> {
        let state = self.lock();
        let frame = state
            .partial_since
            .map(|since| since + self.limits.frame_time);
        let unsent = state
            .unsent_since
            .map(|since| since + self.limits.unsent_time);
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
    Answer {
        number: Number,
        body: Range<usize>,
        refused: bool,
    },
    Incoming,
}

impl State {
    fn next_frame(&mut self, mode: Mode) -> Result<Option<(Range<usize>, Kind)>, Ended> {
        let Some(frame) = self.inbox.frame()? else {
            return Ok(None);
        };
        let kind = match mode {
            Mode::PlainServer => Kind::Incoming,
            Mode::PlainClient => match self.answers.first_in_turn() {
                Some(number) => Kind::Answer {
                    number,
                    body: frame.clone(),
                    refused: false,
                },
                None => Kind::Incoming,
            },
            Mode::Calls => {
                let payload = self.inbox.payload(frame.clone());
                let (header, body) = Header::parse(payload).ok_or(UNKNOWN_FRAME)?;
                let body = frame.end - body.len()..frame.end;
                match header {
                    Header::Answer { number } => Kind::Answer {
                        number,
                        body,
                        refused: false,
                    },
                    Header::Refusal { number } => Kind::Answer {
                        number,
                        body,
                        refused: true,
                    },
                    _ => Kind::Incoming,
                }
            }
        };
        Ok(Some((frame, kind)))
    }

    fn consume(&mut self, frame: &Range<usize>) {
        self.inbox.consume(frame);
        self.partial_since = None;
    }

    fn deliver(&mut self, number: Number, body: Range<usize>, refused: bool, wakes: &mut Wakes) {
        let answer = Answer::new(self.inbox.payload(body), refused);
        wakes.add(self.answers.deliver(number, answer));
    }

    /// Takes a caller out: what it held is free for others.
    fn forget(&mut self, number: Number, wakes: &mut Wakes) {
        self.answers.forget(number);
        wakes.many.append(&mut self.room);
        if self.reader == Reader::Caller(number) {
            self.reader = Reader::Nobody;
            self.wake_background(wakes);
        }
    }

    /// Has the background task look again, once the lock is gone.
    fn wake_background(&mut self, wakes: &mut Wakes) {
        if let Some(waker) = self.background.take() {
            wakes.background = Some(waker);
        }
    }

    fn end(&mut self, why: Ended, wakes: &mut Wakes) {
        self.ended.get_or_insert(why);
        self.reader = Reader::Nobody;
        (self.partial_since, self.unsent_since) = (None, None);
        self.wake_background(wakes);
        wakes.many.append(&mut self.room);
        self.answers.wake_all(&mut wakes.many);
    }
}

/// The meaning of a frame that is not an answer; `None` if it has none.
fn incoming(mode: Mode, payload: &[u8]) -> Option<Incoming<'_>> {
    match mode {
        Mode::PlainServer => Some(Incoming::Request {
            number: 0,
            patience: None,
            body: payload,
        }),
        Mode::PlainClient => Some(Incoming::Notice(payload)),
        Mode::Calls => match Header::parse(payload)? {
            (Header::Hello, body) => Some(Incoming::Hello(body)),
            (Header::Ready, _) => Some(Incoming::Ready),
            (Header::Request { number, patience }, body) => Some(Incoming::Request {
                number,
                patience,
                body,
            }),
            (Header::Notice, body) => Some(Incoming::Notice(body)),
            (Header::Cancel { number }, _) => Some(Incoming::Cancel { number }),
            (Header::Answer { .. } | Header::Refusal { .. }, _) => None,
        },
    }
}

enum Received {
    Bytes(usize),
    End,
    Descriptors,
}

/// One read. Without room for control messages the kernel closes descriptors that came along, and
/// says so.
fn receive(fd: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<(Received, Progress)> {
    let room = space.len();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(space)];
    let message = match recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, flags) {
        Ok(message) => message,
        // A peer that died with unread data in its socket; what it sent before was read before.
        Err(Errno::ECONNRESET) => return Ok((Received::End, Progress::More)),
        Err(errno) => return Err(errno.into()),
    };
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Ok((Received::Descriptors, Progress::More));
    }
    Ok(match message.bytes {
        0 => (Received::End, Progress::More),
        count if count < room => (Received::Bytes(count), Progress::Drained),
        count => (Received::Bytes(count), Progress::More),
    })
}

fn transmit(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<(usize, Progress)> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok((send(fd.as_raw_fd(), bytes, flags)?, Progress::More))
}
