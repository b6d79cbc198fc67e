//! The background task of a connection: answers the peer's requests, sends what waits, keeps time.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, Abortable, CatchUnwind};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};

use super::answers::MAX_IN_FLIGHT;
use super::header::{Header, Number};
use super::link::{Incoming, Link};
use super::{Codec, Ended, Refused, Request, SendError};
use crate::rt::{BoxFuture, Rt};

/// Serves a connection in call mode until it ends, and says why it did.
///
/// `handler` answers requests, each beside the others; most are done when they are first polled
/// and cost no allocation. `ready` is called when the peer says that it is ready.
pub(crate) async fn serve<R, C, H, F>(
    link: Arc<Link>,
    codec: C,
    handler: H,
    mut ready: impl FnMut(),
) -> Ended
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(R) -> F,
    F: Future<Output = Result<R::Response, Refused>>,
{
    let mut serving = Serving {
        link: &link,
        codec,
        running: FuturesUnordered::new(),
        aborts: HashMap::new(),
        spare: None,
        timer: Timer::default(),
    };
    poll_fn(|cx| serving.poll(cx, &handler, &mut ready)).await
}

struct Serving<'a, C, F: Future> {
    link: &'a Link,
    codec: C,
    running: FuturesUnordered<Abortable<Running<F>>>,
    /// How to drop the handler of a request that its asker gave up.
    aborts: HashMap<Number, AbortHandle>,
    /// The place of a handler's future, kept for the next one.
    spare: Option<Place<F>>,
    timer: Timer,
}

/// Whoever still asks the peer must not wait for answers that nobody reads any more.
impl<C, F: Future> Drop for Serving<'_, C, F> {
    fn drop(&mut self) {
        self.link.end(Ended::Here);
    }
}

/// Where a handler's future is pinned; reused, so that requests that are answered at once do not
/// allocate.
type Place<F> = Pin<Box<Option<CatchUnwind<AssertUnwindSafe<F>>>>>;

type Outcome<F> = Result<<F as Future>::Output, Box<dyn std::any::Any + Send>>;

impl<C, F, T> Serving<'_, C, F>
where
    F: Future<Output = Result<T, Refused>>,
{
    fn poll<R, H>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
        ready: &mut dyn FnMut(),
    ) -> Poll<Ended>
    where
        R: Request<Response = T>,
        C: Codec<R> + Codec<T>,
        H: Fn(R) -> F,
    {
        loop {
            self.poll_running(cx);
            let codec = &self.codec;
            let incoming =
                self.link.poll_incoming(cx, &mut |incoming| Received::decode(codec, &incoming));
            match incoming {
                Poll::Ready(Ok(received)) => self.on_received(cx, received, handler, ready),
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => {
                    let Some(why) = self.timer.poll_deadline(cx, self.link) else {
                        return Poll::Pending;
                    };
                    self.link.end(why);
                }
            }
        }
    }

    fn on_received<R, H>(
        &mut self,
        cx: &mut Context<'_>,
        received: Received<R>,
        handler: &H,
        ready: &mut dyn FnMut(),
    ) where
        R: Request<Response = T>,
        C: Codec<T>,
        H: Fn(R) -> F,
    {
        match received {
            Received::Request { number, patience, request } => {
                self.start(cx, Some(number), patience, handler(request));
            }
            Received::Notice(request) => self.start(cx, None, None, handler(request)),
            Received::Undecodable { number, why } => self.refuse(number, &why),
            Received::UndecodableNotice(why) => {
                tracing::warn!(why, "a message of another type was dropped");
            }
            Received::Cancel { number } => {
                if let Some(abort) = self.aborts.remove(&number) {
                    abort.abort();
                }
            }
            Received::Ready => ready(),
            Received::Hello => self.link.end(Ended::Violation("a greeting at the wrong time")),
        }
    }

    /// Polls a new handler once; only one that has to wait is kept beside the others.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        number: Option<Number>,
        patience: Option<Duration>,
        future: F,
    ) where
        C: Codec<T>,
    {
        if self.running.len() >= MAX_IN_FLIGHT {
            if let Some(number) = number {
                self.refuse(number, &format!("more than {MAX_IN_FLIGHT} requests are unanswered"));
            }
            return;
        }
        let mut place = self.spare.take().unwrap_or_else(|| Box::pin(None));
        place.set(Some(AssertUnwindSafe(future).catch_unwind()));
        if let Poll::Ready(outcome) = poll_place(&mut place, cx) {
            self.finish(number, outcome);
            place.set(None);
            self.spare = Some(place);
            return;
        }
        let rt = self.link.rt();
        let timer = patience.map(|patience| sleep(rt, rt.now() + patience));
        let (abort, registration) = AbortHandle::new_pair();
        if let Some(number) = number {
            self.aborts.insert(number, abort);
        }
        self.running.push(Abortable::new(Running { number, place, timer }, registration));
    }

    fn poll_running(&mut self, cx: &mut Context<'_>)
    where
        C: Codec<T>,
    {
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.running).poll_next(cx) {
            // An aborted handler's asker has gone, and its number with it.
            let Ok((number, outcome)) = finished else {
                continue;
            };
            if let Some(number) = number {
                self.aborts.remove(&number);
            }
            if let Some(outcome) = outcome {
                self.finish(number, outcome);
            }
        }
    }

    fn finish(&self, number: Option<Number>, outcome: Outcome<F>)
    where
        C: Codec<T>,
    {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(panic) => {
                let message = crate::rt::panic_message(panic.as_ref());
                tracing::error!(panic = message, "a request's handler panicked");
                Err(Refused::new("the handler panicked"))
            }
        };
        let Some(number) = number else { return };
        match answer {
            Ok(answer) => {
                let header = Some(Header::Answer { number });
                let queued = self.link.queue(header, |payload| -> Result<(), SendError> {
                    Ok(self.codec.encode(&answer, payload)?)
                });
                if let Err(error @ (SendError::TooLong(_) | SendError::Codec(_))) = queued {
                    self.refuse(number, &crate::error::chain(&error));
                }
            }
            Err(refused) => self.refuse(number, &refused.into_words()),
        }
    }

    fn refuse(&self, number: Number, why: &str) {
        // A connection that has ended needs no answer, and a reason is never too long.
        let _ =
            self.link.queue(Some(Header::Refusal { number }), |payload| -> Result<(), SendError> {
                payload.extend_from_slice(&why.as_bytes()[..why.len().min(4096)]);
                Ok(())
            });
    }
}

/// An incoming frame with its body decoded.
enum Received<R> {
    Request { number: Number, patience: Option<Duration>, request: R },
    Notice(R),
    Undecodable { number: Number, why: String },
    UndecodableNotice(String),
    Cancel { number: Number },
    Ready,
    Hello,
}

impl<R> Received<R> {
    fn decode<C: Codec<R>>(codec: &C, incoming: &Incoming<'_>) -> Self {
        match *incoming {
            Incoming::Request { number, patience, body } => match codec.decode(body) {
                Ok(request) => Self::Request { number, patience, request },
                Err(error) => Self::Undecodable { number, why: error.to_string() },
            },
            Incoming::Notice(body) => match codec.decode(body) {
                Ok(request) => Self::Notice(request),
                Err(error) => Self::UndecodableNotice(error.to_string()),
            },
            Incoming::Cancel { number } => Self::Cancel { number },
            Incoming::Ready => Self::Ready,
            Incoming::Hello(_) => Self::Hello,
        }
    }
}

/// A handler that has to wait, until its asker's patience is over.
struct Running<F> {
    number: Option<Number>,
    place: Place<F>,
    timer: Option<BoxFuture>,
}

impl<F: Future> Future for Running<F> {
    type Output = (Option<Number>, Option<Outcome<F>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = &mut *self;
        if let Poll::Ready(outcome) = poll_place(&mut running.place, cx) {
            return Poll::Ready((running.number, Some(outcome)));
        }
        let Some(timer) = &mut running.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready((running.number, None))
    }
}

fn poll_place<F: Future>(place: &mut Place<F>, cx: &mut Context<'_>) -> Poll<Outcome<F>> {
    match place.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}

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

fn sleep(rt: &Rt, deadline: Instant) -> BoxFuture {
    let rt = rt.clone();
    Box::pin(async move { rt.sleep_until(deadline).await })
}
