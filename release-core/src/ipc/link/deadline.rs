//! The deadlines of a connection: a frame to be finished, an answer to be read.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::Link;
use super::state::LinkState;
use crate::ipc::Ended;
use crate::rt::{BoxFuture, Rt};

/// One timer for a deadline that keeps moving.
#[derive(Default)]
pub(crate) struct Timer {
    set: Option<(Instant, BoxFuture)>,
}

impl Timer {
    /// Does what is due when the link's deadline has passed, and is ready then; otherwise it wakes
    /// when it has.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<()> {
        let Some(deadline) = link.deadline() else {
            self.set = None;
            return Poll::Pending;
        };
        if self.set.as_ref().is_none_or(|(set, _)| *set != deadline) {
            self.set = Some((deadline, sleep(link.rt(), deadline)));
        }
        if let Some((_, timer)) = &mut self.set {
            ready!(timer.as_mut().poll(cx));
        }
        self.set = None;
        link.deadline_passed();
        Poll::Ready(())
    }
}

pub(crate) fn sleep(rt: &Rt, deadline: Instant) -> BoxFuture {
    let rt = rt.clone();
    Box::pin(async move { rt.sleep_until(deadline).await })
}

/// Runs a read or a write, and ends the link when the peer passes a deadline meanwhile.
pub(crate) async fn within_deadlines<T>(
    link: &Link,
    operation: impl Future<Output = Result<T, Ended>>,
) -> Result<T, Ended> {
    let mut timer = Timer::default();
    let mut operation = pin!(operation);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = operation.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            ready!(timer.poll_deadline(cx, link));
        }
    })
    .await
}

impl Link {
    /// Until when the peer has to finish a frame or read something, or when to send again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due(&self.lock()).map(|(deadline, _)| deadline)
    }

    /// Does what is to be done when the deadline has passed.
    pub(crate) fn deadline_passed(&self) {
        let now = self.rt.now();
        // It may have been met meanwhile.
        self.with(|state| match self.due(state).filter(|(deadline, _)| *deadline <= now) {
            Some((_, Some(why))) => self.end_locked(state, why),
            Some((_, None)) => state.crowded_until = None,
            None => {}
        });
    }

    /// The next deadline, and what a peer is called that passes it.
    fn due(&self, state: &LinkState) -> Option<(Instant, Option<Ended>)> {
        if state.is_frozen() {
            return None;
        }
        // While it is paused the rest of a frame may have come and not been read.
        let partial_since = state.partial_since.filter(|_| state.pause.is_none());
        let frame = partial_since.map(|since| since + self.limits.frame_time);
        let unsent = state.unsent_since.map(|since| since + self.limits.unsent_time);
        let deadlines = [
            frame.map(|deadline| (deadline, Some(Ended::FrameTimeout))),
            unsent.map(|deadline| (deadline, Some(Ended::NotReading))),
            state.crowded_until.map(|deadline| (deadline, None)),
        ];
        deadlines.into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }
}
