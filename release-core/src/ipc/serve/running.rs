//! Handlers of requests that are being answered.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::CatchUnwind;

use crate::ipc::body::Size;
use crate::ipc::header::Number;
use crate::rt::BoxFuture;

/// Where a handler's future is pinned; reused, so that requests that are answered at once do not
/// allocate.
pub(super) type Place<F> = Pin<Box<Option<CatchUnwind<AssertUnwindSafe<F>>>>>;

pub(super) type Outcome<F> = Result<<F as Future>::Output, Box<dyn std::any::Any + Send>>;

/// A handler that has to wait, until its asker's patience is over.
pub(super) struct Running<F> {
    pub(super) number: Option<Number>,
    pub(super) size: Size,
    pub(super) place: Place<F>,
    pub(super) timer: Option<BoxFuture>,
}

impl<F: Future> Future for Running<F> {
    type Output = (Option<Number>, Size, Option<Outcome<F>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = &mut *self;
        if let Poll::Ready(outcome) = poll_place(&mut running.place, cx) {
            return Poll::Ready((running.number, running.size, Some(outcome)));
        }
        let Some(timer) = &mut running.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready((running.number, running.size, None))
    }
}

pub(super) fn poll_place<F: Future>(
    place: &mut Place<F>,
    cx: &mut Context<'_>,
) -> Poll<Outcome<F>> {
    match place.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}
