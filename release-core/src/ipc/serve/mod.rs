//! The background task of a connection: answers requests of the peer, sends queued frames, and
//! checks deadlines.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, CatchUnwind, Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};

use self::requests::{Decoded, HeldRequests, HeldServices, PeerRequest, WaitingMessages};
use super::limits::FRAMES_PER_TURN;
use super::link::deadline::{Timer, sleep};
use super::link::{BackgroundTurn, EndOnDrop, Link};
use super::wire::body::Size;
use super::wire::header::{Header, RequestNumber};
use super::{Codec, Ended, Refused, Request, SendError};
use crate::log_throttle::LogThrottle;
use crate::rt::BoxFuture;
use crate::sys::process::redirect;
use crate::sys::untrusted::Untrusted;

mod requests;

pub(crate) use self::requests::Heard;

/// Serves a connection in call mode, and returns the reason when it has ended.
///
/// `handler` answers requests concurrently. Most handlers finish when they are first polled and
/// cost no allocation. `heard` is called for what the peer says other than messages.
///
/// If `handler` returns a reason in place of a future, the request is not permitted, and the
/// connection is ended. Dropping the future also ends it, even if it was never polled. So does a
/// panic outside a handler's future, for example in a codec.
pub(crate) fn serve<R, C, H, F>(
    link: Arc<Link>,
    codec: C,
    handler: H,
    heard: impl FnMut(Heard),
) -> impl Future<Output = Ended>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(R) -> Result<F, &'static str>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    let link = EndOnDrop(link);
    async move {
        let serving = AssertUnwindSafe(serve_calls(&link.0, codec, handler, heard));
        serving.catch_unwind().await.unwrap_or(PANICKED)
    }
}

/// Serves a connection until `finishing` completes, and then until the answers of the handlers that have
/// finished by then are sent. Returns the reason if the connection has ended before.
///
/// A process that ends at once would lose the answer of a handler that lets it end: the handler's task may
/// be on another thread, or may wait for its turn.
pub(crate) async fn serve_until(
    link: &Link,
    serving: impl Future<Output = Ended>,
    finishing: impl Future + Unpin,
) -> Option<Ended> {
    let mut serving = pin!(serving);
    // Polls the handlers before it looks for the end.
    if let Either::Left((ended, _)) = select(serving.as_mut(), finishing).await {
        return Some(ended);
    }
    poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => link.poll_flush(cx),
    })
    .await;
    None
}

const PANICKED: Ended = Ended::Violation("a message made this side's codec or guard panic");

async fn serve_calls<R, C, H, F>(
    link: &Link,
    codec: C,
    handler: H,
    mut heard: impl FnMut(Heard),
) -> Ended
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(R) -> Result<F, &'static str>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    let mut serving = Serving {
        link,
        codec,
        held: HeldRequests::default(),
        services: HeldServices::default(),
        running: FuturesUnordered::new(),
        aborts: HashMap::new(),
        asked: WaitingMessages::default(),
        notices: WaitingMessages::default(),
        spare: None,
        received: Vec::new(),
        was_choked: false,
        has_ended: false,
        timer: Timer::default(),
        not_understood: LogThrottle::default(),
    };
    poll_fn(|cx| serving.poll(cx, &handler, &mut heard)).await
}

struct Serving<'a, R, C, F: Future> {
    link: &'a Link,
    codec: C,
    held: HeldRequests<R>,
    services: HeldServices,
    running: FuturesUnordered<Abortable<RunningHandler<F>>>,
    /// The handles to drop handlers of cancelled requests, and the sizes of these requests.
    aborts: HashMap<RequestNumber, (AbortHandle, Size)>,
    /// Requests with waiting handlers; notices are counted apart from them.
    asked: WaitingMessages,
    notices: WaitingMessages,
    /// The slot of a finished handler, for the next one.
    spare: Option<FutureSlot<F>>,
    /// Empty between two turns; kept for its memory.
    received: Vec<Decoded<R>>,
    was_choked: bool,
    /// True if this task has ended the connection.
    has_ended: bool,
    timer: Timer,
    not_understood: LogThrottle,
}

impl<R, C, F> Serving<'_, R, C, F>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    fn poll<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
        heard: &mut dyn FnMut(Heard),
    ) -> Poll<Ended> {
        let mut handled = 0;
        while handled < FRAMES_PER_TURN {
            self.start_held(cx, handler);
            self.services.pass_on(self.link, heard);
            self.poll_running(cx);
            let turn = self.turn(cx);
            handled += self.received.len().max(1);
            self.was_choked |= turn.was_full;
            match turn.incoming {
                Poll::Ready(Ok(())) => self.on_all_received(cx, handler, heard),
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                // There is room for answers again: deferred requests are started.
                Poll::Pending if self.was_choked && !turn.is_full => self.was_choked = false,
                Poll::Pending => ready!(self.timer.poll_deadline(cx, self.link, turn.deadline)),
            }
        }
        let _ = self.link.poll_flush(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives requests and notices that have arrived together, or one other frame after them.
    fn turn(&mut self, cx: &mut Context<'_>) -> BackgroundTurn {
        let Self { link, codec, received, .. } = self;
        // The unanswered requests, whose limit an honest peer respects.
        let mut asked = self.asked.plus(&self.held.load);
        let held = self.held.requests.len() + self.services.len();
        let unfinished = self.running.len() + held;
        link.turn(cx, unfinished, &mut |incoming| {
            let size = incoming.body.size();
            let (decoded, takes_more) = match incoming.header {
                Header::Request { .. } if !asked.have_room(link, size) => (Decoded::TooMuch, false),
                Header::Request { .. } => {
                    asked.add(size);
                    (Decoded::decode(codec, incoming), true)
                }
                // After the end of a request, there is room for another one.
                header => (Decoded::decode(codec, incoming), header == Header::Notice),
            };
            received.push(decoded);
            takes_more
        })
    }

    fn on_all_received<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
        heard: &mut dyn FnMut(Heard),
    ) {
        let mut all = std::mem::take(&mut self.received);
        for received in all.drain(..) {
            if !self.has_ended {
                self.on_received(cx, received, handler, heard);
            }
        }
        self.received = all;
    }

    fn end(&mut self, why: Ended) {
        self.has_ended = true;
        self.link.end(why);
    }

    fn on_received<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        received: Decoded<R>,
        handler: &H,
        heard: &mut dyn FnMut(Heard),
    ) {
        let why = match &received {
            Decoded::Request(PeerRequest { request: Err(why), .. }) => Some(why),
            Decoded::Notice(Err(why), _) => Some(why),
            _ => None,
        };
        if let Some(why) = why
            && let Some(unsaid) = self.not_understood.now(self.link.rt().now())
        {
            // The peer may have chosen its words.
            heard(Heard::NotUnderstood { why: why.chars().take(500).collect(), unsaid });
        }
        match received {
            Decoded::TooMuch => self.end(TOO_MANY),
            // Started in the next round at the latest, if there is room for its answer.
            Decoded::Request(asked) if self.was_choked || self.held.is_waiting() => {
                self.held.push(asked);
            }
            Decoded::Request(asked) => self.start_asked(cx, asked, handler),
            Decoded::Notice(Ok(request), size) => {
                let origin = RequestKey { number: None, size };
                self.start(cx, origin, None, handler(request));
            }
            Decoded::Notice(Err(_), size) => {
                if let Err(why) = self.link.undecodable(size.bytes) {
                    self.end(why);
                }
            }
            Decoded::Cancel { number } => {
                self.held.remove(number);
                if let Some(abort) = self.settle(number) {
                    abort.abort();
                } else if !self.services.remove(number) {
                    heard(Heard::Cancelled(number));
                }
            }
            Decoded::Service(number, Err(why), _) => {
                self.say_why(Header::NotUnderstood { number }, &why);
            }
            Decoded::Service(number, Ok(request), size) => {
                match self.services.push(self.link, number, request, size) {
                    true => self.services.pass_on(self.link, heard),
                    false => self.end(TOO_MANY),
                }
            }
            Decoded::Control(frame) => heard(frame),
            Decoded::Outputs(files) if self.link.limits().takes_outputs => replace_outputs(files),
            Decoded::Outputs(_) => self.end(Ended::Violation("files nobody asked for")),
            Decoded::Untimely(why) => self.end(Ended::Violation(why)),
        }
    }

    /// Removes a request that is no longer being answered.
    fn settle(&mut self, number: RequestNumber) -> Option<AbortHandle> {
        let (abort, size) = self.aborts.remove(&number)?;
        self.asked.remove(size);
        Some(abort)
    }

    fn start_held<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
    ) {
        while self.held.can_start(self.link)
            && let Some(asked) = self.held.pop()
        {
            self.start_asked(cx, asked, handler);
        }
    }

    fn start_asked<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        asked: PeerRequest<R>,
        handler: &H,
    ) {
        match asked.request {
            Ok(request) => {
                let origin = RequestKey { number: Some(asked.number), size: asked.size };
                self.start(cx, origin, asked.timeout, handler(request));
            }
            Err(why) => self.say_why(Header::NotUnderstood { number: asked.number }, &why),
        }
    }

    /// Polls a new handler once. Only a waiting handler is added to the running ones.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        origin: RequestKey,
        timeout: Option<Duration>,
        future: Result<F, &'static str>,
    ) {
        let RequestKey { number, size } = origin;
        let future = match future {
            Ok(future) => future,
            Err(why) => return self.end(Ended::Violation(why)),
        };
        // Requests were counted before. Notices are dropped when too many wait.
        if number.is_none() && !self.notices.have_room(self.link, size) {
            return;
        }
        let mut slot = self.spare.take().unwrap_or_else(|| Box::pin(None));
        slot.set(Some(AssertUnwindSafe(future).catch_unwind()));
        if let Poll::Ready(outcome) = poll_slot(&mut slot, cx) {
            self.finish(number, outcome);
            slot.set(None);
            self.spare = Some(slot);
            return;
        }
        let rt = self.link.rt();
        let timer = timeout.map(|timeout| sleep(rt, rt.after(timeout)));
        let (abort, registration) = AbortHandle::new_pair();
        if let Some(number) = number {
            self.aborts.insert(number, (abort, size));
            self.asked.add(size);
        } else {
            self.notices.add(size);
        }
        self.running
            .push(Abortable::new(RunningHandler { number, size, slot, timer }, registration));
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) {
        // While the peer does not read, finished handlers wait here, and not as queued answers.
        while !self.running.is_empty()
            && !self.link.is_choked()
            && let Poll::Ready(Some(finished)) = Pin::new(&mut self.running).poll_next(cx)
        {
            // The request of an aborted handler was removed when it was cancelled.
            let Ok((number, size, outcome)) = finished else {
                continue;
            };
            match number {
                Some(number) => drop(self.settle(number)),
                None => self.notices.remove(size),
            }
            if let Some(outcome) = outcome {
                self.finish(number, outcome);
            }
        }
    }

    fn finish(&mut self, number: Option<RequestNumber>, outcome: HandlerOutcome<F>) {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(panic) => {
                let message = crate::guard::panic_message(panic.as_ref());
                log_error!(panic = message, "a request's handler panicked");
                Err(Refused::new("the handler panicked"))
            }
        };
        let Some(number) = number else { return };
        match answer {
            Ok(answer) => {
                let header = Some(Header::Answer { number });
                let queued = self.link.queue(header, |draft| -> Result<(), SendError> {
                    Ok(draft.encode(&self.codec, &answer)?)
                });
                match queued {
                    Ok(is_full) => self.was_choked |= is_full,
                    Err(error @ (SendError::TooLong(_) | SendError::Codec(_))) => {
                        self.say_why(Header::Refusal { number }, &crate::error::chain(&error));
                    }
                    Err(_) => {}
                }
            }
            Err(refused) => self.say_why(Header::Refusal { number }, &refused.into_words()),
        }
    }

    fn say_why(&mut self, header: Header, why: &str) {
        // An ended connection needs no answer, and a reason is never too long.
        let queued = self.link.queue(Some(header), |draft| -> Result<(), SendError> {
            draft.bytes.extend_from_slice(&why.as_bytes()[..why.len().min(4096)]);
            Ok(())
        });
        self.was_choked |= queued.unwrap_or(false);
    }
}

/// Replaces the standard output and error of this process, for all threads.
fn replace_outputs(files: Vec<Untrusted>) {
    for (number, file) in [1, 2].into_iter().zip(files.into_iter().map(OwnedFd::from)) {
        if let Err(error) = redirect(number, &file) {
            log_error!(number, %error, "cannot replace an output of this process");
        }
    }
}

const TOO_MANY: Ended = Ended::Violation("more unanswered requests than agreed");

/// The request of a handler.
#[derive(Clone, Copy)]
struct RequestKey {
    /// `None` for a message without an answer.
    number: Option<RequestNumber>,
    size: Size,
}

/// A pinned slot for the future of a handler. It is reused, so that requests that are answered at
/// once do not allocate.
type FutureSlot<F> = Pin<Box<Option<CatchUnwind<AssertUnwindSafe<F>>>>>;

type HandlerOutcome<F> = Result<<F as Future>::Output, Box<dyn std::any::Any + Send>>;

/// A waiting handler, with the timeout of its request.
struct RunningHandler<F> {
    number: Option<RequestNumber>,
    size: Size,
    slot: FutureSlot<F>,
    timer: Option<BoxFuture>,
}

impl<F: Future> Future for RunningHandler<F> {
    type Output = (Option<RequestNumber>, Size, Option<HandlerOutcome<F>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = &mut *self;
        if let Poll::Ready(outcome) = poll_slot(&mut running.slot, cx) {
            return Poll::Ready((running.number, running.size, Some(outcome)));
        }
        let Some(timer) = &mut running.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready((running.number, running.size, None))
    }
}

fn poll_slot<F: Future>(slot: &mut FutureSlot<F>, cx: &mut Context<'_>) -> Poll<HandlerOutcome<F>> {
    match slot.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }
}
