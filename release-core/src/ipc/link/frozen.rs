//! A link as a value: paused and frozen in one process image, and restored in the next.

use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::answers::Answers;
use super::expectations::Expectations;
use super::readable::Readable;
use super::rings::FrozenRings;
use super::state::{LinkState, Mode};
use super::{Link, refuse_unagreed, socket};
use crate::ipc::limits::{Heartbeat, Limits};
use crate::ipc::wire::header::Header;
use crate::ipc::wire::outbox::Outbox;
use crate::ipc::{Descriptor, FrameTooLong};
use crate::kept;
use crate::rt::Rt;
use crate::sys::fds::duplicate_from;
use crate::{Error, ErrorKind};

/// The state of a link.
///
/// The descriptors are duplicates. The link can be resumed, and its end does not affect them.
pub(crate) type Frozen = kept::Link<Descriptor>;

/// The state of a restored link, and the descriptors that belong to it.
type RestoredParts = (LinkState, Descriptor, Option<Box<FrozenRings>>);

impl Frozen {
    pub(crate) fn mode(&self) -> Mode {
        match self.mode {
            kept::Mode::Calls | kept::Mode::CallsWithRings(_) => Mode::Calls,
            kept::Mode::PlainClient => Mode::PlainClient,
            kept::Mode::PlainServer => Mode::PlainServer,
        }
    }

    /// Returns an error if the state is invalid.
    pub(crate) fn check(self) -> Result<(), Error> {
        self.state(Instant::now()).map(drop)
    }

    fn state(self, now: Instant) -> Result<RestoredParts, Error> {
        let mut state = LinkState::new(self.limits.into());
        state.inbox.put_back(&self.input);
        let since = |time: Duration| now.checked_sub(time).unwrap_or(now);
        state.partial_since = self.partial.map(since);
        state.unsent_since = self.unsent.map(since);
        let rings = match self.mode {
            kept::Mode::CallsWithRings(rings) => Some(rings),
            _ => None,
        };
        let is_whole = state.arrivals.restore(self.arrivals)
            && state.outbox.restore(self.output, self.attached)
            && rings.as_ref().is_none_or(|rings| rings.restore(&mut state.outbox));
        state.expectations = Expectations::unknown();
        state.answers = Answers::after(self.numbers).filter(|_| is_whole).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the state of a connection makes no sense")
        })?;
        Ok((state, self.socket, rings))
    }
}

fn kept_mode(mode: Mode, rings: Option<FrozenRings>) -> kept::Mode<Descriptor> {
    match (mode, rings) {
        (Mode::Calls, Some(rings)) => kept::Mode::CallsWithRings(Box::new(rings)),
        (Mode::Calls, None) => kept::Mode::Calls,
        (Mode::PlainClient, _) => kept::Mode::PlainClient,
        (Mode::PlainServer, _) => kept::Mode::PlainServer,
    }
}

impl From<Limits> for kept::Limits {
    fn from(limits: Limits) -> Self {
        let pulse = |Heartbeat { every, timeout }| kept::Heartbeat { every, timeout };
        Self {
            frame: limits.frame,
            frame_time: limits.frame_time,
            unsent: limits.unsent,
            unsent_time: limits.unsent_time,
            descriptors: limits.descriptors,
            takes_outputs: limits.takes_outputs,
            spin: limits.spin,
            pulse: limits.pulse.map(pulse),
            ring: limits.ring,
            hands_on: limits.hands_on,
        }
    }
}

impl From<kept::Limits> for Limits {
    fn from(kept: kept::Limits) -> Self {
        let pulse = |kept::Heartbeat { every, timeout }| Heartbeat { every, timeout };
        Self {
            frame: kept.frame,
            frame_time: kept.frame_time,
            unsent: kept.unsent,
            unsent_time: kept.unsent_time,
            descriptors: kept.descriptors,
            takes_outputs: kept.takes_outputs,
            spin: kept.spin,
            pulse: kept.pulse.map(pulse),
            ring: kept.ring,
            hands_on: kept.hands_on,
        }
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
        let rings = state.rings.copy(&state.outbox).map_err(refused)?;
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
            mode: kept_mode(self.mode, rings),
            limits: self.limits.into(),
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
        let (mode, limits) = (frozen.mode(), frozen.limits.into());
        let (mut state, socket, rings) = frozen.state(rt.now())?;
        if let Some(rings) = rings {
            state.rings = rings.thaw(rt, limits).map_err(|error| {
                Error::system("cannot take over the ring of a connection", error)
            })?;
        }
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
