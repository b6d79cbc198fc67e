//! The deadlines of a connection: a frame to be finished, an answer to be read.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::link::Link;
use crate::rt::{BoxFuture, Rt};

/// One timer for a deadline that keeps moving.
#[derive(Default)]
pub(super) struct Timer {
    set: Option<(Instant, BoxFuture)>,
}

impl Timer {
    /// Does what is due when the link's deadline has passed, and is ready then; otherwise it wakes
    /// when it has.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<()> {
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

pub(super) fn sleep(rt: &Rt, deadline: Instant) -> BoxFuture {
    let rt = rt.clone();
    Box::pin(async move { rt.sleep_until(deadline).await })
}
