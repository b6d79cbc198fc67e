//! The side of the background task: it receives requests, and answers for sleeping callers.

use std::ops::Range;
use std::task::{Context, Poll};
use std::time::Instant;

use super::Link;
use super::state::{FrameKind, Incoming, LinkState};
use crate::ipc::limits::FRAMES_PER_TURN;
use crate::ipc::wire::body::Body;
use crate::ipc::{Ended, Header};

/// What the background task learns in one turn under the lock.
pub(crate) struct BackgroundTurn {
    /// Ready if frames were taken, or the connection has ended.
    pub(crate) incoming: Poll<Result<(), Ended>>,
    /// True if the queue for the peer was full at the beginning, and at the end.
    pub(crate) was_full: bool,
    pub(crate) is_full: bool,
    pub(crate) deadline: Option<Instant>,
}

impl Link {
    /// Sends queued frames, and returns the next frame that is not an answer. `unfinished` is the
    /// number of earlier frames that are still being handled.
    pub(crate) fn poll_incoming<T>(
        &self,
        cx: &mut Context<'_>,
        unfinished: usize,
        take: &mut dyn FnMut(Incoming<'_>) -> T,
    ) -> Poll<Result<T, Ended>> {
        let mut taken = None;
        let turn = self.turn(cx, unfinished, &mut |incoming| {
            taken = Some(take(incoming));
            false
        });
        match (taken, turn.incoming) {
            (Some(taken), _) => Poll::Ready(Ok(taken)),
            (None, Poll::Ready(Err(ended))) => Poll::Ready(Err(ended)),
            (None, _) => Poll::Pending,
        }
    }

    /// Sends queued frames, and takes frames that have arrived and are not answers, as long as `take`
    /// returns true. `unfinished` is the number of earlier frames that are still being handled.
    pub(crate) fn turn(
        &self,
        cx: &mut Context<'_>,
        unfinished: usize,
        take: &mut dyn FnMut(Incoming<'_>) -> bool,
    ) -> BackgroundTurn {
        self.with(|state| {
            if let Some(pause) = &mut state.pause {
                pause.report(unfinished, &mut state.wakes);
            }
            let was_full = self.is_full(state);
            let incoming = self.poll_background(state, cx, take);
            let (is_full, deadline) = (self.is_full(state), self.deadline_of(state));
            BackgroundTurn { incoming, was_full, is_full, deadline }
        })
    }

    /// Passes a frame to `take`. Returns whether it takes more; `None` if it got nothing.
    fn pass_on(
        &self,
        state: &mut LinkState,
        frame: &Range<usize>,
        (header, body): (Header, Range<usize>),
        take: &mut dyn FnMut(Incoming<'_>) -> bool,
    ) -> Option<bool> {
        if state.pause.is_some() {
            return state.set_aside(header, frame).map(take);
        }
        let body = Body {
            bytes: state.inbox.payload(body),
            is_lost: state.arrivals.is_lost(),
            descriptors: state.arrivals.take(),
        };
        if let Err(why) = state.expectations.check(header, &self.limits, || self.rt.now()) {
            self.end_locked(state, why);
            return None;
        }
        let takes_more = take(Incoming { header, body });
        state.consume(frame);
        Some(takes_more)
    }

    fn poll_background(
        &self,
        state: &mut LinkState,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>) -> bool,
    ) -> Poll<Result<(), Ended>> {
        let mut has_taken = false;
        for _ in 0..FRAMES_PER_TURN {
            match &state.ended {
                // Frames before the end are handled before it.
                Some(_) if has_taken => break,
                Some(ended) => return Poll::Ready(Err(ended.clone())),
                None => {}
            }
            let may_read = state.may_background_read(&self.limits);
            match if may_read {
                state.next_frame(self.mode, self.limits.descriptors)
            } else {
                Ok(None)
            } {
                Ok(Some((frame, FrameKind::Answer { number, body, kind }))) => {
                    let delivered = state.deliver(number, body, kind, || self.rt.now());
                    self.handled(state, &frame, delivered);
                }
                Ok(Some((frame, FrameKind::Ring(about)))) => {
                    let handled = self.on_ring_frame(state, about);
                    self.handled(state, &frame, handled);
                }
                Ok(Some((frame, FrameKind::Incoming { header, body }))) => {
                    if let Some(takes_more) = self.pass_on(state, &frame, (header, body), take) {
                        has_taken = true;
                        if !takes_more {
                            break;
                        }
                    }
                }
                _ if has_taken => break,
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
        if has_taken {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        state.sleep(cx)
    }

    fn handled(&self, state: &mut LinkState, frame: &Range<usize>, outcome: Result<(), Ended>) {
        state.consume(frame);
        if let Err(why) = outcome {
            self.end_locked(state, why);
        }
    }

    /// Counts a notice of `size` bytes that did not decode. Returns the reason if there were too many.
    pub(crate) fn undecodable(&self, size: usize) -> Result<(), Ended> {
        self.lock().expectations.undecodable(size, self.rt.now())
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
