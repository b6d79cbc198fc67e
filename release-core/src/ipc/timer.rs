//! The deadlines of a connection: a frame to be finished, an answer to be read.

use std::mem;
use std::task::Context;
use std::time::Instant;

use super::Ended;
use super::link::Link;
use crate::rt::{BoxFuture, Rt};

/// One timer for a deadline that keeps moving.
#[derive(Default)]
pub(super) struct Timer {
    set: Option<(Instant, BoxFuture)>,
}

impl Timer {
    /// What is to be done now that the link's deadline has passed; `None` arranges a wake for it.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, link: &Link) -> Option<Ended> {
        let Some((deadline, why)) = link.deadline() else {
            self.set = None;
            return None;
        };
        if self.set.as_ref().is_none_or(|(set, _)| *set != deadline) {
            self.set = Some((deadline, sleep(link.rt(), deadline)));
        }
        let (_, timer) = self.set.as_mut()?;
        timer.as_mut().poll(cx).is_ready().then(|| mem::take(&mut self.set)).map(|_| why)
    }
}

pub(super) fn sleep(rt: &Rt, deadline: Instant) -> BoxFuture {
    let rt = rt.clone();
    Box::pin(async move { rt.sleep_until(deadline).await })
}
