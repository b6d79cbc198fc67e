//! What is being served: requests are read, started, answered and given up, in turns.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};

use super::Word;
use super::held::{Asked, Held, Load};
use super::received::Received;
use super::running::{Outcome, Place, Running, poll_place};
use crate::ipc::body::Size;
use crate::ipc::header::{Header, Number};
use crate::ipc::limits::FRAMES_PER_TURN;
use crate::ipc::link::{Incoming, Link};
use crate::ipc::timer::{Timer, sleep};
use crate::ipc::{Codec, Ended, Refused, Request, SendError};
use crate::sys::process::redirect;
use crate::sys::untrusted::Untrusted;

pub(super) struct Serving<'a, R, C, F: Future> {
    pub(super) link: &'a Link,
    pub(super) codec: C,
    pub(super) held: Held<R>,
    pub(super) running: FuturesUnordered<Abortable<Running<F>>>,
    /// How to drop the handler of a request that its asker gave up, and the request's size.
    pub(super) aborts: HashMap<Number, (AbortHandle, Size)>,
    /// Requests and, apart from them, notices whose handlers have to wait.
    pub(super) asked: Load,
    pub(super) notices: Load,
    /// The place of a handler's future, kept for the next one.
    pub(super) spare: Option<Place<F>>,
    pub(super) was_choked: bool,
    pub(super) timer: Timer,
}

impl<R, C, F> Serving<'_, R, C, F>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    pub(super) fn poll<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        handler: &H,
        heard: &mut dyn FnMut(Word),
    ) -> Poll<Ended> {
        for _ in 0..FRAMES_PER_TURN {
            self.start_held(cx, handler);
            self.poll_running(cx);
            self.was_choked |= self.link.is_choked();
            // What the peer has asked and not been answered, which an honest one keeps in bounds.
            let (codec, asked) = (&self.codec, self.asked.plus(&self.held.load));
            let unfinished = self.running.len() + self.held.requests.len();
            let incoming =
                self.link.poll_incoming(cx, unfinished, &mut |incoming| match incoming {
                    Incoming { header: Header::Request { .. }, body }
                        if !asked.have_room(self.link, body.size()) =>
                    {
                        Received::TooMuch
                    }
                    incoming => Received::decode(codec, incoming),
                });
            match incoming {
                Poll::Ready(Ok(received)) => self.on_received(cx, received, handler, heard),
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                // There is room for answers again: on with what was put off.
                Poll::Pending if self.was_choked && !self.link.is_choked() => {
                    self.was_choked = false
                }
                Poll::Pending => ready!(self.timer.poll_deadline(cx, self.link)),
            }
        }
        let _ = self.link.poll_flush(cx);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn on_received<H: Fn(R) -> Result<F, &'static str>>(
        &mut self,
        cx: &mut Context<'_>,
        received: Received<R>,
        handler: &H,
        heard: &mut dyn FnMut(Word),
    ) {
        match received {
            Received::TooMuch => self.link.end(TOO_MANY),
            // Started in the next round at the latest, if there is room for its answer.
            Received::Asked(asked) if self.was_choked || self.held.is_waiting() => {
                self.held.push(asked);
            }
            Received::Asked(asked) => self.start_asked(cx, asked, handler),
            Received::Notice(Ok(request), size) => {
                let origin = Origin { number: None, size };
                self.start(cx, origin, None, handler(request));
            }
            Received::Notice(Err(why), size) => {
                tracing::debug!(why, "a message of another type was dropped");
                self.link.undecodable(size.bytes);
            }
            Received::Cancel { number } => {
                self.held.remove(number);
                self.settle(number).inspect(AbortHandle::abort);
            }
            Received::Word(word) => heard(word),
            Received::Outputs(files) if self.link.limits().takes_outputs => replace_outputs(files),
            Received::Outputs(_) => self.link.end(Ended::Violation("files nobody asked for")),
            Received::Untimely(why) => self.link.end(Ended::Violation(why)),
        }
    }

    /// A request is no longer being answered.
    fn settle(&mut self, number: Number) -> Option<AbortHandle> {
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
        asked: Asked<R>,
        handler: &H,
    ) {
        match asked.request {
            Ok(request) => {
                let origin = Origin { number: Some(asked.number), size: asked.size };
                self.start(cx, origin, asked.patience, handler(request));
            }
            Err(why) => self.refuse(asked.number, &why),
        }
    }

    /// Polls a new handler once; only one that has to wait is kept beside the others.
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
        patience: Option<Duration>,
        future: Result<F, &'static str>,
    ) {
        let Origin { number, size } = origin;
        let future = match future {
            Ok(future) => future,
            Err(why) => return self.link.end(Ended::Violation(why)),
        };
        // Requests are counted before; messages that want no answer are dropped when too many wait.
        if number.is_none() && !self.notices.have_room(self.link, size) {
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
        let timer = patience.map(|patience| sleep(rt, rt.after(patience)));
        let (abort, registration) = AbortHandle::new_pair();
        if let Some(number) = number {
            self.aborts.insert(number, (abort, size));
            self.asked.add(size);
        } else {
            self.notices.add(size);
        }
        self.running.push(Abortable::new(Running { number, size, place, timer }, registration));
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) {
        // What is done while the peer does not read stays where it is, instead of in its answer.
        while !self.running.is_empty()
            && !self.link.is_choked()
            && let Poll::Ready(Some(finished)) = Pin::new(&mut self.running).poll_next(cx)
        {
            // An aborted handler's asker has gone, and its number with it.
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

    fn finish(&self, number: Option<Number>, outcome: Outcome<F>) {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(panic) => {
                let message = crate::guard::panic_message(panic.as_ref());
                tracing::error!(panic = message, "a request's handler panicked");
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
            self.link.queue(Some(Header::Refusal { number }), |draft| -> Result<(), SendError> {
                draft.bytes.extend_from_slice(&why.as_bytes()[..why.len().min(4096)]);
                Ok(())
            });
    }
}

/// Whatever this process writes from now on goes there, also from other threads.
fn replace_outputs(files: Vec<Untrusted>) {
    for (number, file) in [1, 2].into_iter().zip(files.into_iter().map(OwnedFd::from)) {
        if let Err(error) = redirect(number, &file) {
            tracing::error!(number, %error, "cannot replace an output of this process");
        }
    }
}

const TOO_MANY: Ended = Ended::Violation("more unanswered requests than agreed");

/// Which request a handler answers.
#[derive(Clone, Copy)]
struct Origin {
    /// None for a message that wants no answer.
    number: Option<Number>,
    size: Size,
}
