//! The background task of a connection: answers the peer's requests, sends what waits, keeps time.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, CatchUnwind};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};

use super::answers::MAX_IN_FLIGHT;
use super::header::{Header, Number};
use super::limits::FRAMES_PER_TURN;
use super::link::{Incoming, Link};
use super::timer::{Timer, sleep};
use super::{Codec, Ended, Refused, Request, SendError};
use crate::rt::BoxFuture;

mod held;

use held::{Asked, Held};

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
        held: Held::default(),
        running: FuturesUnordered::new(),
        aborts: HashMap::new(),
        running_bytes: 0,
        spare: None,
        timer: Timer::default(),
    };
    poll_fn(|cx| serving.poll(cx, &handler, &mut ready)).await
}

struct Serving<'a, R, C, F: Future> {
    link: &'a Link,
    codec: C,
    held: Held<R>,
    running: FuturesUnordered<Abortable<Running<F>>>,
    /// How to drop the handler of a request that its asker gave up, and the request's bytes.
    aborts: HashMap<Number, (AbortHandle, usize)>,
    running_bytes: usize,
    /// The place of a handler's future, kept for the next one.
    spare: Option<Place<F>>,
    timer: Timer,
}

/// Whoever still asks the peer must not wait for answers that nobody reads any more.
impl<R, C, F: Future> Drop for Serving<'_, R, C, F> {
    fn drop(&mut self) {
        self.link.end(Ended::Here);
    }
}

/// Where a handler's future is pinned; reused, so that requests that are answered at once do not
/// allocate.
type Place<F> = Pin<Box<Option<CatchUnwind<AssertUnwindSafe<F>>>>>;

type Outcome<F> = Result<<F as Future>::Output, Box<dyn std::any::Any + Send>>;

impl<R, C, F> Serving<'_, R, C, F>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    fn poll<H: Fn(R) -> F>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
        ready: &mut dyn FnMut(),
    ) -> Poll<Ended> {
        for _ in 0..FRAMES_PER_TURN {
            self.poll_running(cx);
            self.start_held(cx, handler);
            let (codec, overcharged) = (&self.codec, self.is_overcharged());
            let incoming = self.link.poll_incoming(cx, &mut |incoming| match incoming {
                Incoming::Request { .. } if overcharged => Received::TooMuch,
                incoming => Received::decode(codec, &incoming),
            });
            match incoming {
                Poll::Ready(Ok(received)) => self.on_received(cx, received, handler, ready),
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending if self.held.can_start(self.link) => {}
                Poll::Pending => {
                    let Some(why) = self.timer.poll_deadline(cx, self.link) else {
                        return Poll::Pending;
                    };
                    self.link.end(why);
                }
            }
        }
        let _ = self.link.poll_flush(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn on_received<H: Fn(R) -> F>(
        &mut self,
        cx: &mut Context<'_>,
        received: Received<R>,
        handler: &H,
        ready: &mut dyn FnMut(),
    ) {
        match received {
            Received::TooMuch => self.link.end(TOO_MANY),
            Received::Asked(asked) if self.held.must_wait(self.link) => self.held.push(asked),
            Received::Asked(asked) => self.start_asked(cx, asked, handler),
            Received::Notice(Ok(request)) => self.start(cx, None, None, handler(request)),
            Received::Notice(Err(why)) => {
                tracing::debug!(why, "a message of another type was dropped");
            }
            Received::Cancel { number } => {
                self.held.remove(number);
                self.settle(number).inspect(AbortHandle::abort);
            }
            Received::Ready => ready(),
            Received::Hello => self.link.end(Ended::Violation("a greeting at the wrong time")),
        }
    }

    /// Whether the peer has asked more than an honest one does before it has answers.
    fn is_overcharged(&self) -> bool {
        self.running.len() + self.held.requests.len() >= MAX_IN_FLIGHT
            || self.running_bytes + self.held.bytes > self.link.limits().unsent
    }

    /// A request is no longer being answered.
    fn settle(&mut self, number: Number) -> Option<AbortHandle> {
        let (abort, size) = self.aborts.remove(&number)?;
        self.running_bytes -= size;
        Some(abort)
    }

    fn start_held<H: Fn(R) -> F>(&mut self, cx: &mut Context<'_>, handler: &H) {
        while self.held.can_start(self.link)
            && let Some(asked) = self.held.pop()
        {
            self.start_asked(cx, asked, handler);
        }
    }

    fn start_asked<H: Fn(R) -> F>(&mut self, cx: &mut Context<'_>, asked: Asked<R>, handler: &H) {
        match asked.request {
            Ok(request) => {
                let origin = Origin { number: asked.number, size: asked.size };
                self.start(cx, Some(origin), asked.patience, handler(request));
            }
            Err(why) => self.refuse(asked.number, &why),
        }
    }

    /// Polls a new handler once; only one that has to wait is kept beside the others.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        origin: Option<Origin>,
        patience: Option<Duration>,
        future: F,
    ) {
        // Requests are counted before; messages that want no answer may be dropped.
        if origin.is_none() && self.running.len() >= MAX_IN_FLIGHT {
            return;
        }
        let number = origin.as_ref().map(|origin| origin.number);
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
        if let Some(Origin { number, size }) = origin {
            self.aborts.insert(number, (abort, size));
            self.running_bytes += size;
        }
        self.running.push(Abortable::new(Running { number, place, timer }, registration));
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.running).poll_next(cx) {
            // An aborted handler's asker has gone, and its number with it.
            let Ok((number, outcome)) = finished else {
                continue;
            };
            if let Some(number) = number {
                self.settle(number);
            }
            if let Some(outcome) = outcome {
                self.finish(number, outcome);
            }
        }
    }

    fn finish(&self, number: Option<Number>, outcome: Outcome<F>) {
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

const TOO_MANY: Ended = Ended::Violation("more unanswered requests than agreed");

/// Which request a handler answers.
#[derive(Clone, Copy)]
struct Origin {
    number: Number,
    size: usize,
}

/// An incoming frame with its body decoded.
enum Received<R> {
    Asked(Asked<R>),
    /// One more request than agreed, not decoded.
    TooMuch,
    Notice(Result<R, String>),
    Cancel {
        number: Number,
    },
    Ready,
    Hello,
}

impl<R> Received<R> {
    fn decode<C: Codec<R>>(codec: &C, incoming: &Incoming<'_>) -> Self {
        let decode = |body| codec.decode(body).map_err(|error| error.to_string());
        match *incoming {
            Incoming::Request { number, patience, body } => {
                Self::Asked(Asked { number, patience, request: decode(body), size: body.len() })
            }
            Incoming::Notice(body) => Self::Notice(decode(body)),
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
