//! The deadlines of a connection: the rest of a frame must arrive, and the peer must read.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::Link;
use super::state::LinkState;
use crate::ipc::Ended;
use crate::rt::{BoxFuture, Rt};

/// A timer for the next deadline, which changes often.
#[derive(Default)]
pub(crate) struct Timer {
    set: Option<(Instant, BoxFuture)>,
}

impl Timer {
    /// Waits for the next deadline of the link and handles it.
    #[inline]
    pub(crate) fn poll_deadline(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        // Almost always, there is none.
        if deadline.is_none() && self.set.is_none() {
            return Poll::Pending;
        }
        self.poll_changed(cx, link, deadline)
    }

    fn poll_changed(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let Some(deadline) = deadline else {
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

/// Runs a read or a write. Ends the link if the peer misses a deadline meanwhile.
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
            ready!(timer.poll_deadline(cx, link, link.deadline()));
        }
    })
    .await
}

impl Link {
    /// Returns the time until which the peer must finish a frame or read, or the time of the next
    /// attempt to send.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline_of(&self.lock())
    }

    pub(super) fn deadline_of(&self, state: &LinkState) -> Option<Instant> {
        // Almost always there is none.
        state.partial_since.or(state.unsent_since).or(state.crowded_until)?;
        self.due(state).map(|(deadline, _)| deadline)
    }

    /// Ends the connection or sends again if a deadline has passed.
    pub(crate) fn deadline_passed(&self) {
        let now = self.rt.now();
        // The peer may have met it meanwhile.
        self.with(|state| match self.due(state).filter(|(deadline, _)| *deadline <= now) {
            Some((_, Some(why))) => self.end_locked(state, why),
            Some((_, None)) => state.crowded_until = None,
            None => {}
        });
    }

    /// Returns the next deadline, and the reason for the end if the peer misses it.
    fn due(&self, state: &LinkState) -> Option<(Instant, Option<Ended>)> {
        if state.is_frozen() {
            return None;
        }
        // During a pause, the rest of a frame may have arrived without being read.
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
