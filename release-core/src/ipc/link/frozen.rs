//! A link as a value: paused and frozen in one process image, and restored in the next.

use std::ops::Range;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::expectations::Expectations;
use super::readable::Readable;
use super::state::{LinkState, Mode};
use super::{Link, refuse_unagreed, socket};
use crate::ipc::limits::Limits;
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::wire::outbox::Outbox;
use crate::ipc::{Descriptor, FrameTooLong};
use crate::rt::Rt;
use crate::sys::fds::duplicate_from;
use crate::{Error, ErrorKind};

/// The state of one side of a connection, at a position of both streams where it handles nothing.
///
/// The descriptors are duplicates. The link can be resumed, and its end does not affect them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Frozen {
    mode: Mode,
    /// The limits from the start of the connection, also if the next program version has others.
    limits: Limits,
    socket: Descriptor,
    /// The received bytes that are not handled yet, and the frames among them with descriptors.
    input: Vec<u8>,
    arrivals: Vec<(usize, Vec<Descriptor>)>,
    /// The unsent bytes, and the positions of frames with descriptors.
    output: Vec<u8>,
    attached: Vec<(Range<usize>, Vec<Descriptor>)>,
    /// The last request numbers of this side.
    numbers: Vec<RequestNumber>,
    /// Times for which the peer has not finished a frame, and has not read.
    partial: Option<Duration>,
    unsent: Option<Duration>,
}

impl Frozen {
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns an error if the state is invalid.
    pub(crate) fn check(self) -> Result<(), Error> {
        self.state(Instant::now()).map(drop)
    }

    fn state(self, now: Instant) -> Result<(LinkState, Descriptor), Error> {
        let mut state = LinkState::new(self.limits);
        state.inbox.put_back(&self.input);
        let since = |time: Duration| now.checked_sub(time).unwrap_or(now);
        state.partial_since = self.partial.map(since);
        state.unsent_since = self.unsent.map(since);
        let is_whole = state.arrivals.restore(self.arrivals)
            && state.outbox.restore(self.output, self.attached);
        state.expectations = Expectations::unknown();
        state.answers = Answers::after(self.numbers).filter(|_| is_whole).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the state of a connection makes no sense")
        })?;
        Ok((state, self.socket))
    }
}

/// Returns the bytes of frames, as a link would send them.
fn frames(write: impl FnOnce(&mut Outbox) -> Result<(), FrameTooLong>) -> Result<Vec<u8>, Error> {
    let mut frames = Outbox::new(u32::MAX);
    write(&mut frames).map_err(|error| {
        Error::new(ErrorKind::Change, "a request cannot be handed over").caused_by(error)
    })?;
    Ok(frames.unsent().to_vec())
}

impl Link {
    /// Stops starting requests of the peer. Running handlers are finished. Answers of the peer are
    /// still received, because a handler may wait for one.
    pub(crate) fn pause(&self) {
        self.with(|state| {
            state.pause.get_or_insert_default();
            state.wake_background();
        });
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.lock().pause.is_some()
    }

    /// Waits until all handlers are finished or the link has ended. Only one task may wait.
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

    /// Counts the running handlers of a paused link. The result is 1 if the number is unknown.
    pub(crate) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.pause.as_ref().map_or(0, |pause| pause.unfinished.unwrap_or(1))
    }

    /// Resumes the link after [`Link::pause`] or [`Link::freeze`].
    pub(crate) fn resume(&self) {
        self.with(|state| {
            state.put_back();
            let was_frozen = state.is_frozen();
            if state.pause.take().is_some() && was_frozen && state.ended.is_some() {
                socket::close(self.io.as_fd());
            }
            state.wake_background();
            self.wake_for_room(state);
        });
    }

    /// Freezes a paused link until [`Link::resume`] and returns its state, or `None` if it has
    /// ended.
    ///
    /// In plain mode, the request that is being answered may be passed as `unanswered`. The next
    /// process image receives it first. Requests of this side are cancelled, because their callers
    /// do not exist there.
    ///
    /// # Errors
    ///
    /// Returns an error if other requests are being answered, or if no descriptors are left. The
    /// link then stays paused.
    pub(crate) fn freeze(&self, unanswered: Option<&[u8]>) -> Result<Option<Frozen>, Error> {
        let unfinished = self.unfinished();
        if unanswered.is_none() && unfinished > 0 && self.ended().is_none() {
            let message = format!("requests that are still being answered: {unfinished}");
            return Err(Error::new(ErrorKind::Change, message));
        }
        self.with(|state| {
            if state.ended.is_some() {
                return Ok(None);
            }
            state.freeze();
            let frozen = self.copy(state, unanswered);
            if frozen.is_err() {
                state.unfreeze();
            }
            frozen.map(Some)
        })
    }

    /// Returns the current state, to check whether another program version understands it. The link
    /// is not changed.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptors are left.
    pub(crate) fn sample(&self) -> Result<Option<Frozen>, Error> {
        self.with(|state| match state.ended {
            Some(_) => Ok(None),
            None => self.copy(state, None).map(Some),
        })
    }

    fn copy(&self, state: &mut LinkState, unanswered: Option<&[u8]>) -> Result<Frozen, Error> {
        let refused = |error| Error::system("cannot duplicate what a connection has", error);
        let mut input = match unanswered {
            Some(request) => frames(|outbox| {
                outbox.push(|payload| {
                    payload.extend_from_slice(request);
                    Ok(())
                })
            })?,
            None => Vec::new(),
        };
        input.extend_from_slice(state.inbox.unread());
        let arrivals = state.arrivals.copy().map_err(refused)?;
        let (mut output, attached) = state.outbox.copy().map_err(refused)?;
        if self.mode == Mode::Calls {
            let cancel = |number| {
                move |payload: &mut Vec<u8>| {
                    Header::Cancel { number }.write(payload);
                    Ok(())
                }
            };
            let mut given_up = state.answers.unanswered();
            let cancels = frames(|out| given_up.try_for_each(|number| out.push(cancel(number))))?;
            output.extend_from_slice(&cancels);
        }
        let now = self.rt.now();
        Ok(Frozen {
            mode: self.mode,
            limits: self.limits,
            socket: duplicate_from(self.io.as_fd(), 3).map_err(refused)?.into(),
            input,
            arrivals,
            output,
            attached,
            numbers: state.answers.numbers(),
            partial: state.partial_since.map(|since| now - since),
            unsent: state.unsent_since.map(|since| now - since),
        })
    }

    /// Restores a link, which continues both streams at the next byte.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket, or if the state is invalid.
    pub(crate) fn thaw(rt: &Rt, frozen: Frozen) -> Result<Self, Error> {
        let (mode, limits) = (frozen.mode, frozen.limits);
        let (state, socket) = frozen.state(rt.now())?;
        let socket = socket.into();
        refuse_unagreed(&socket, limits);
        let io = rt
            .register(socket)
            .map_err(|error| Error::system("cannot watch a connection's socket", error))?;
        Ok(Self {
            io,
            mode,
            limits,
            rt: rt.clone(),
            readable: Readable::default(),
            state: state.into(),
        })
    }
}
