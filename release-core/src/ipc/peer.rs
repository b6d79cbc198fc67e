//! `Peer`: call mode, as the one who asks sees it.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::answers::Answer;
use super::header::Number;
use super::link::Link;
use super::{CallError, Codec, Ended, Postcard, Request, SendError};

/// The other process, to ask it requests of type `R` (rows R11, R12).
///
/// Cheap to clone; all clones share one connection. Many tasks may call at once, answers come in
/// any order, and each caller gets its own. A caller that gives up, by a timeout or by dropping the
/// future, disturbs nobody: a late answer is dropped, and the peer is told that it can stop.
pub struct Peer<R, C = Postcard> {
    link: Arc<Link>,
    codec: C,
    requests: PhantomData<fn(R)>,
}

impl<R, C: Clone> Clone for Peer<R, C> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.link), self.codec.clone())
    }
}

impl<R, C> fmt::Debug for Peer<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("ended", &self.link.ended()).finish_non_exhaustive()
    }
}

impl<R, C> Peer<R, C> {
    pub(crate) fn new(link: Arc<Link>, codec: C) -> Self {
        Self { link, codec, requests: PhantomData }
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.link.ended()
    }
}

impl<R: Request, C: Codec<R> + Codec<R::Response>> Peer<R, C> {
    /// Asks, and waits for the answer for as long as the connection lives.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; after all of them but [`CallError::Ended`] the connection goes on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the call up: a request that was not yet queued is not sent; one
    /// that was is cancelled at the peer, and its answer, should it still come, is dropped.
    #[doc(alias = "make_request")]
    pub async fn call(&self, request: &R) -> Result<R::Response, CallError> {
        self.ask(request, None).await
    }

    /// Asks, and gives up after `patience`, which travels along: the peer's handler is dropped then.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`], and what [`Peer::call`] gives.
    ///
    /// # Cancel safety
    ///
    /// As [`Peer::call`].
    pub async fn call_within(
        &self,
        patience: Duration,
        request: &R,
    ) -> Result<R::Response, CallError> {
        let asked = self.ask(request, Some(patience));
        self.link.rt().timeout(patience, asked).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn ask(&self, request: &R, patience: Option<Duration>) -> Result<R::Response, CallError> {
        if !self.link.can_ask() {
            return Err(CallError::Refused("a worker in plain mode answers nothing".to_owned()));
        }
        let mut encode = |payload: &mut Vec<u8>| -> Result<(), CallError> {
            Ok(self.codec.encode(request, payload)?)
        };
        let number = poll_fn(|cx| self.link.poll_request(cx, patience, &mut encode)).await?;
        let mut ticket = Ticket { link: &self.link, number: Some(number) };
        let mut decode = |answer: Answer<'_>| match answer {
            Answer::Given(body) => self.codec.decode(body).map_err(CallError::Codec),
            Answer::Refused(why) => {
                Err(CallError::Refused(String::from_utf8_lossy(why).into_owned()))
            }
        };
        let answer = poll_fn(|cx| self.link.poll_answer(cx, number, &mut decode)).await;
        ticket.number = None;
        answer.unwrap_or_else(|ended| Err(ended.into()))
    }

    /// Sends a message that wants no answer; never waits.
    ///
    /// The peer handles it like a request and its answer is dropped. The message is queued when
    /// the socket is full at the moment.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when so much is queued that the peer must be stuck; others are not
    /// delayed by it.
    pub fn notify(&self, message: &R) -> Result<(), SendError> {
        if self.link.is_choked() {
            return self.link.ended().map_or(Err(SendError::Full), |ended| Err(ended.into()));
        }
        self.link.queue(self.link.notice(), |payload| -> Result<(), SendError> {
            Ok(self.codec.encode(message, payload)?)
        })?;
        self.link.flush_now();
        Ok(())
    }
}

/// A request that was sent and not answered; dropping it gives the answer up.
struct Ticket<'a> {
    link: &'a Link,
    number: Option<Number>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.abandon(number);
        }
    }
}
