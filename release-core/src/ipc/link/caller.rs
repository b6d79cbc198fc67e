//! The side of a caller: it queues a request and receives its answer.

use std::task::{Context, Poll};
use std::time::Duration;

use super::Link;
use super::answers::Answer;
use super::state::{FrameKind, LinkState, Mode, SocketReader};
use crate::ipc::limits::FRAMES_PER_TURN;
use crate::ipc::wire::body::{Body, Draft, Size};
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::{Ended, FrameTooLong};

/// The position of a caller in the queue for room. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct WaitingCaller<'a> {
    link: &'a Link,
    number: Option<u64>,
}

impl<'a> WaitingCaller<'a> {
    pub(crate) fn new(link: &'a Link) -> Self {
        Self { link, number: None }
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.link.with(|state| {
                state.room.leave(&mut self.number);
                // It may have been woken for room that it does not use.
                self.link.wake_for_room(state);
            });
        }
    }
}

impl Link {
    /// Queues a request when there is room for it. Sends it immediately if no other call waits.
    pub(crate) fn poll_request<E: From<Ended> + From<FrameTooLong>>(
        &self,
        cx: &mut Context<'_>,
        place: &mut WaitingCaller<'_>,
        timeout: Option<Duration>,
        encode: &mut dyn FnMut(&mut Draft<'_>) -> Result<(), E>,
    ) -> Poll<Result<RequestNumber, E>> {
        self.with(|state| {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone().into()));
            }
            if self.is_full(state) || !state.answers.have_room(self.limits.unsent) {
                state.room.wait(&mut place.number, cx.waker(), 0);
                return Poll::Pending;
            }
            let number = state.answers.expect(self.mode == Mode::PlainClient);
            let header = Header::Request { number, timeout };
            let descriptors = match self.push(state, self.in_calls(header), &mut *encode) {
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
                state.room.wait(&mut place.number, cx.waker(), descriptors);
                self.wake_for_room(state);
                return Poll::Pending;
            }
            state.room.leave(&mut place.number);
            let size = Size { bytes: state.outbox.last_length(), descriptors };
            state.answers.set_size(number, size);
            self.wake_for_room(state);
            if state.answers.is_alone() {
                self.flush(state);
            } else {
                // Requests of the same turn of the executor are sent in one system call. From now
                // on the background task reads, because the first caller may not be polled any
                // more.
                state.reader = SocketReader::Background;
                state.wake_background();
            }
            Poll::Ready(Ok(number))
        })
    }

    /// Waits for the answer to a request. Reads the socket if no other task does.
    pub(crate) fn poll_answer<T>(
        &self,
        cx: &mut Context<'_>,
        number: RequestNumber,
        take: &mut dyn FnMut(Answer<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        self.with(|state| {
            let polled = self.poll_caller(state, cx, number, take);
            if polled.is_ready() {
                self.forget(state, number);
            }
            polled
        })
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
            match state.next_frame(self.mode) {
                Ok(Some((frame, FrameKind::Answer { number: to, body, refused }))) => {
                    if to == number {
                        let bytes = state.inbox.payload(body);
                        let body = Body { bytes, descriptors: state.arrivals.take() };
                        let taken = take(Answer::new(body, refused));
                        state.consume(&frame);
                        return Poll::Ready(Ok(taken));
                    }
                    let delivered = state.deliver(to, body, refused, || self.rt.now());
                    state.consume(&frame);
                    if let Err(why) = delivered {
                        self.end_locked(state, why);
                    }
                }
                Ok(Some((_, FrameKind::Incoming { .. }))) => {
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
            self.forget(state, number);
            if gives_up {
                state.expectations.cancelled();
            }
            if gives_up && self.mode == Mode::Calls {
                let _ = state.outbox.push::<FrameTooLong>(|payload| {
                    Header::Cancel { number }.write(payload);
                    Ok(())
                });
                self.flush(state);
            }
        });
    }

    /// Removes a caller, makes its room available, and returns reading to the background task.
    fn forget(&self, state: &mut LinkState, number: RequestNumber) {
        state.answers.forget(number);
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
