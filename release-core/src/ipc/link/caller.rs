//! The side of a caller: it queues a request and receives its answer.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Link;
use super::answers::Answer;
use super::readable::SocketReader;
use super::state::{FrameKind, LinkState, Mode};
use crate::ipc::limits::FRAMES_PER_TURN;
use crate::ipc::wire::body::{Body, Draft, Size};
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::{Ended, FrameTooLong};

/// A call: first in the queue for room, then with a request at the peer. Dropping it leaves the queue
/// or cancels the request.
#[derive(Debug)]
pub(crate) struct PendingCall<'a> {
    link: &'a Link,
    timeout: Option<Duration>,
    /// The position in the queue for room.
    place: Option<u64>,
    /// The number of the sent request, until it is answered.
    number: Option<RequestNumber>,
    /// True for a request of the library.
    is_service: bool,
}

impl<'a> PendingCall<'a> {
    pub(crate) fn new(link: &'a Link, timeout: Option<Duration>) -> Self {
        Self { link, timeout, place: None, number: None, is_service: false }
    }

    /// Creates the call of a request of the library.
    pub(crate) fn of_service(link: &'a Link) -> Self {
        Self { is_service: true, ..Self::new(link, None) }
    }

    /// Queues the request when there is room for it, and waits for the answer. Reads the socket if no
    /// other task does.
    pub(crate) fn poll<T, E: From<Ended> + From<FrameTooLong>>(
        &mut self,
        cx: &mut Context<'_>,
        encode: &mut dyn FnMut(&mut Draft<'_>) -> Result<(), E>,
        take: &mut dyn FnMut(Answer<'_>) -> Result<T, E>,
    ) -> Poll<Result<T, E>> {
        let link = self.link;
        link.with(|state| {
            let number = match self.number {
                Some(number) => number,
                None => {
                    let number = ready!(link.poll_request(state, cx, self, encode))?;
                    *self.number.insert(number)
                }
            };
            let answer = ready!(link.poll_caller(state, cx, number, take));
            state.answers.take(number);
            link.release(state, number);
            self.number = None;
            Poll::Ready(answer.unwrap_or_else(|ended| Err(ended.into())))
        })
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.abandon(number);
        }
        if self.place.is_some() {
            self.link.with(|state| {
                state.room.leave(&mut self.place);
                // It may have been woken for room that it does not use.
                self.link.wake_for_room(state);
            });
        }
    }
}

impl Link {
    /// Queues a request when there is room for it. Sends it immediately if no other call waits.
    fn poll_request<E: From<Ended> + From<FrameTooLong>>(
        &self,
        state: &mut LinkState,
        cx: &Context<'_>,
        caller: &mut PendingCall<'_>,
        encode: &mut dyn FnMut(&mut Draft<'_>) -> Result<(), E>,
    ) -> Poll<Result<RequestNumber, E>> {
        if let Some(ended) = &state.ended {
            return Poll::Ready(Err(ended.clone().into()));
        }
        if self.is_full(state) || !state.answers.have_room(self.limits.unsent) {
            state.room.wait(&mut caller.place, cx.waker(), 0);
            return Poll::Pending;
        }
        let number = state.answers.expect(self.mode == Mode::PlainClient);
        let header = match caller.is_service {
            true => Header::Service { number },
            false => Header::Request { number, timeout: caller.timeout },
        };
        let descriptors = match self.push(state, self.in_calls(header), &mut *encode) {
            // The socket of a service request is none of the agreed descriptors.
            Ok(_) if caller.is_service => 0,
            Ok(descriptors) => descriptors,
            Err(error) => {
                state.answers.take_back(number);
                return Poll::Ready(Err(error));
            }
        };
        if state.answers.descriptors() + descriptors > self.limits.descriptors {
            // Known only after encoding. Requests with fewer descriptors may continue.
            state.outbox.take_back();
            state.answers.take_back(number);
            state.room.wait(&mut caller.place, cx.waker(), descriptors);
            self.wake_for_room(state);
            return Poll::Pending;
        }
        state.room.leave(&mut caller.place);
        let size = Size { bytes: state.outbox.last_length(), descriptors };
        state.answers.set_size(number, size);
        self.wake_for_room(state);
        if state.answers.is_alone() {
            self.flush(state);
        } else {
            // Requests of the same turn of the executor are sent in one system call. From now on the
            // background task reads, because the first caller may not be polled any more.
            state.reader = SocketReader::Background;
            state.wake_background();
        }
        Poll::Ready(Ok(number))
    }

    fn poll_caller<T>(
        &self,
        state: &mut LinkState,
        cx: &mut Context<'_>,
        number: RequestNumber,
        take: &mut dyn FnMut(Answer<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        if let Some(answer) = state.answers.delivered(number) {
            return Poll::Ready(Ok(take(answer)));
        }
        state.answers.wait(number, cx.waker());
        if state.is_frozen() && state.ended.is_none() {
            return Poll::Pending;
        }
        if state.reader != SocketReader::Caller(number) && !self.may_read(state) {
            return state.ended.clone().map_or(Poll::Pending, |ended| Poll::Ready(Err(ended)));
        }
        state.reader = SocketReader::Caller(number);
        for _ in 0..FRAMES_PER_TURN {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            match state.next_frame(self.mode, self.limits.descriptors) {
                Ok(Some((frame, FrameKind::Answer { number: to, body, kind }))) => {
                    if to == number {
                        let bytes = state.inbox.payload(body);
                        let is_lost = state.arrivals.is_lost();
                        let body = Body { bytes, descriptors: state.arrivals.take(), is_lost };
                        let taken = take(Answer::new(body, kind));
                        state.consume(&frame);
                        return Poll::Ready(Ok(taken));
                    }
                    let delivered = state.deliver(to, body, kind, || self.rt.now());
                    state.consume(&frame);
                    if let Err(why) = delivered {
                        self.end_locked(state, why);
                    }
                }
                Ok(Some((_, FrameKind::Incoming { .. } | FrameKind::Ring(_)))) => {
                    state.reader = SocketReader::Background;
                    state.wake_background();
                    return Poll::Pending;
                }
                Ok(None) => {
                    if !self.spin(state) && self.poll_receive(state, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(why) => self.end_locked(state, why),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns true if a caller may read the socket, because it is the only one.
    fn may_read(&self, state: &LinkState) -> bool {
        state.ended.is_none()
            && state.reader == SocketReader::Background
            && state.answers.is_alone()
    }

    /// Cancels the request of a dropped caller. A late answer will be dropped.
    pub(crate) fn abandon(&self, number: RequestNumber) {
        self.with(|state| {
            let gives_up = state.ended.is_none() && state.answers.is_unanswered(number);
            state.answers.forget(number);
            self.release(state, number);
            if state.reader == SocketReader::Background {
                self.readable.forget_caller();
                state.rings.forget_caller();
            }
            if gives_up {
                state.expectations.cancelled();
            }
            if gives_up && self.mode == Mode::Calls {
                let _ = state.outbox.push::<_, FrameTooLong>(|payload| {
                    Header::Cancel { number }.write(payload);
                    Ok(())
                });
                self.flush(state);
            }
        });
    }

    /// Makes the room of a caller available, and returns reading to the background task.
    fn release(&self, state: &mut LinkState, number: RequestNumber) {
        self.wake_for_room(state);
        if state.reader != SocketReader::Caller(number) {
            return;
        }
        state.reader = SocketReader::Background;
        // Usually no other frame has arrived, and the background task can sleep: it is registered
        // for the next one without being run.
        let idle = state.ended.is_none() && state.inbox.is_empty();
        let Some(background) = state.background.take() else {
            return;
        };
        if idle && self.poll_receive(state, &mut Context::from_waker(&background)).is_pending() {
            state.background = Some(background);
        } else {
            state.wakes.background = Some(background);
        }
    }
}
