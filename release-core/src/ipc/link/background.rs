//! The side of the background task: it receives requests, and answers for sleeping callers.

use std::task::{Context, Poll};

use super::Link;
use super::state::{FrameKind, Incoming, LinkState};
use crate::ipc::Ended;
use crate::ipc::limits::FRAMES_PER_TURN;
use crate::ipc::wire::body::Body;

impl Link {
    /// Sends queued frames, and returns the next frame that is not an answer. `unfinished` is the
    /// number of earlier frames that are still being handled.
    pub(crate) fn poll_incoming<T>(
        &self,
        cx: &mut Context<'_>,
        unfinished: usize,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        self.with(|state| {
            if let Some(pause) = &mut state.pause {
                pause.report(unfinished, &mut state.wakes);
            }
            self.poll_background(state, cx, take)
        })
    }

    fn poll_background<T>(
        &self,
        state: &mut LinkState,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        for _ in 0..FRAMES_PER_TURN {
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            let may_read = state.may_background_read(self.limits);
            match if may_read { state.next_frame(self.mode) } else { Ok(None) } {
                Ok(Some((frame, FrameKind::Answer { number, body, refused }))) => {
                    let delivered = state.deliver(number, body, refused, || self.rt.now());
                    state.consume(&frame);
                    if let Err(why) = delivered {
                        self.end_locked(state, why);
                    }
                }
                Ok(Some((frame, FrameKind::Incoming { header, .. }))) if state.pause.is_some() => {
                    if let Some(incoming) = state.set_aside(header, &frame) {
                        return Poll::Ready(Ok(take(incoming)));
                    }
                }
                Ok(Some((frame, FrameKind::Incoming { header, body }))) => {
                    let body = Body {
                        bytes: state.inbox.payload(body),
                        descriptors: state.arrivals.take(),
                    };
                    let heard = state.expectations.check(header, self.limits, || self.rt.now());
                    let heard = heard.map(|()| take(Incoming { header, body }));
                    match heard {
                        Ok(taken) => {
                            state.consume(&frame);
                            return Poll::Ready(Ok(taken));
                        }
                        Err(why) => self.end_locked(state, why),
                    }
                }
                Ok(None) => {
                    // All received frames are handled: the answers are sent in one system call.
                    let _ = self.poll_send(state, cx);
                    if state.ended.is_none()
                        && (!may_read || self.poll_receive(state, cx).is_pending())
                    {
                        return state.sleep(cx);
                    }
                }
                Err(why) => self.end_locked(state, why),
            }
        }
        cx.waker().wake_by_ref();
        state.sleep(cx)
    }

    /// Counts a notice of `size` bytes that did not decode.
    pub(crate) fn undecodable(&self, size: usize) {
        self.with(|state| {
            if let Err(why) = state.expectations.undecodable(size, self.rt.now()) {
                self.end_locked(state, why);
            }
        });
    }

    /// Sends the last answer, before the next request is read.
    pub(crate) fn poll_answered(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state| {
            if let Some(pause) = &mut state.pause {
                pause.report(0, &mut state.wakes);
            }
            match self.poll_send(state, cx) {
                Poll::Pending => state.sleep(cx),
                Poll::Ready(()) => Poll::Ready(()),
            }
        })
    }

    /// Sends queued frames without reading.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|state| self.poll_send(state, cx))
    }
}
