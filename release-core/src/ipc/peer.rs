//! `Peer`: the side of a connection in call mode that sends requests.

use std::borrow::Borrow;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::link::answers::Answer;
use super::link::{Link, PendingCall};
use super::{CallError, Codec, CodecError, Ended, OneOf, Postcard, Request, SendError};
use crate::ipc::wire::body::Draft;
use crate::rt::wait_for;

/// The other process of a connection in call mode, which answers requests of type `R`.
///
/// Cheap to clone; all clones share one connection. Many tasks may call at the same time, and
/// answers may come in any order. If a call times out or its future is dropped, the request is
/// cancelled on the other side; other calls are not affected.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{CallError, Peer};
/// use futures_util::future::try_join;
///
/// async fn two_at_once(peer: &Peer<String>) -> Result<(String, String), CallError> {
///     let (first, second) = ("one".to_owned(), "two".to_owned());
///     try_join(peer.call(&first), peer.call(&second)).await
/// }
/// ```
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

    #[cfg(test)]
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Returns the reason why the connection has ended, or `None` while it lives.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Peer;
    ///
    /// fn is_alive(peer: &Peer<String>) -> bool {
    ///     peer.ended().is_none()
    /// }
    /// ```
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.link.ended()
    }
}

impl<R: Request, C: Codec<R> + Codec<R::Response>> Peer<R, C> {
    /// Sends a request and waits for its response, as long as the connection lives.
    ///
    /// `request` is a value of type `R`, a reference to one, or one of the requests of `R`
    /// ([`requests!`](crate::requests)), which has a response type of its own.
    ///
    /// # Errors
    ///
    /// Returns a [`CallError`]. The connection can still be used after every error except
    /// [`CallError::Ended`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call. A request that is not queued yet is not sent. A
    /// request that was sent is cancelled at the peer, and a late answer is dropped.
    ///
    /// You must either poll the future or drop it: the only call of a connection reads the socket
    /// for all tasks. If it is kept without being polled, as in a branch of a loop, requests of the
    /// peer wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{CallError, Peer};
    ///
    /// async fn greet(peer: &Peer<String>) -> Result<String, CallError> {
    ///     peer.call(&"hello".to_owned()).await
    /// }
    /// ```
    #[doc(alias = "make_request")]
    pub async fn call<Q: OneOf<R>>(&self, request: Q) -> Result<Q::Response, CallError> {
        self.ask(request, None).await
    }

    /// Sends a request and waits for its response, at most for `timeout`: first the time, then the
    /// request, as in [`Peer::call`].
    ///
    /// The timeout is sent with the request, and the peer's handler is dropped when it expires.
    ///
    /// # Errors
    ///
    /// Returns [`CallError::TimedOut`] after the timeout, and otherwise the errors of
    /// [`Peer::call`].
    ///
    /// # Cancel safety
    ///
    /// Like [`Peer::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ipc::{CallError, Peer};
    ///
    /// async fn greet(peer: &Peer<String>) -> Result<Option<String>, CallError> {
    ///     match peer.call_within(Duration::from_secs(1), &"hello".to_owned()).await {
    ///         Ok(answer) => Ok(Some(answer)),
    ///         Err(CallError::TimedOut) => Ok(None),
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// ```
    pub async fn call_within<Q: OneOf<R>>(
        &self,
        timeout: Duration,
        request: Q,
    ) -> Result<Q::Response, CallError> {
        let asked = self.ask(request, Some(timeout));
        self.link.rt().timeout(timeout, asked).await.unwrap_or(Err(CallError::TimedOut))
    }

    /// Sends a request and blocks this thread until the answer arrives, like [`Peer::call`], for
    /// callers that are not async, such as the signer of a TLS library.
    ///
    /// Call this on a thread of your own, or in [`Rt::unblock`](crate::rt::Rt::unblock), while the
    /// driver runs.
    ///
    /// # Errors
    ///
    /// Returns [`CallError::WouldDeadlock`] in a task, and on the thread that runs the driver;
    /// otherwise the errors of [`Peer::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::ipc::{CallError, Peer};
    ///
    /// /// Called by a library that knows nothing of futures.
    /// fn sign(master: &Peer<String>, message: &str) -> Result<String, CallError> {
    ///     master.blocking_call(&message.to_owned())
    /// }
    ///
    /// async fn handshake(me: &Me<(), String>) -> Result<String, Box<dyn std::error::Error>> {
    ///     let master = me.master();
    ///     Ok(me.rt().unblock(move || sign(&master, "hello")).await??)
    /// }
    /// # let _ = handshake;
    /// ```
    pub fn blocking_call<Q: OneOf<R>>(&self, request: Q) -> Result<Q::Response, CallError> {
        wait_for(self.call(request)).unwrap_or(Err(CallError::WouldDeadlock))
    }

    /// Sends a request and blocks this thread until the answer arrives, at most for `timeout`. See
    /// [`Peer::blocking_call`] and [`Peer::call_within`].
    ///
    /// # Errors
    ///
    /// Returns [`CallError::TimedOut`] after the timeout, and otherwise the errors of
    /// [`Peer::blocking_call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ipc::{CallError, Peer};
    ///
    /// fn sign(master: &Peer<String>, message: &str) -> Result<String, CallError> {
    ///     master.blocking_call_within(Duration::from_secs(5), &message.to_owned())
    /// }
    /// # let _ = sign;
    /// ```
    pub fn blocking_call_within<Q: OneOf<R>>(
        &self,
        timeout: Duration,
        request: Q,
    ) -> Result<Q::Response, CallError> {
        let call = self.call_within(timeout, request);
        wait_for(call).unwrap_or(Err(CallError::WouldDeadlock))
    }

    async fn ask<Q: OneOf<R>>(
        &self,
        request: Q,
        timeout: Option<Duration>,
    ) -> Result<Q::Response, CallError> {
        let answer = self.ask_all(request.into_all().borrow(), timeout).await?;
        Q::response(answer).ok_or_else(|| {
            CallError::Codec(CodecError::new("the answer is the response to another request"))
        })
    }

    async fn ask_all(
        &self,
        request: &R,
        timeout: Option<Duration>,
    ) -> Result<R::Response, CallError> {
        if !self.link.can_ask() {
            return Err(CallError::Refused("a worker in plain mode answers nothing".to_owned()));
        }
        let mut encode = |draft: &mut Draft<'_>| -> Result<(), CallError> {
            Ok(draft.encode(&self.codec, request)?)
        };
        let text = |why: &[u8]| String::from_utf8_lossy(why).into_owned();
        let mut decode = |answer: Answer<'_>| match answer {
            Answer::Given(body) => body.decode(&self.codec).map_err(CallError::Codec),
            Answer::Refused(why) => Err(CallError::Refused(text(why))),
            Answer::NotUnderstood(why) => Err(CallError::NotUnderstood(text(why))),
        };
        let mut caller = PendingCall::new(&self.link, timeout);
        poll_fn(|cx| caller.poll(cx, &mut encode, &mut decode)).await
    }

    /// Sends a message without waiting for an answer. If the socket is full, the message is queued.
    ///
    /// A message within 200 microseconds of the last one is sent together with those that follow, when
    /// the task yields to the runtime, and at the latest before the connection is closed.
    /// [`std::process::exit`] does not close it: return from the main function of your worker.
    ///
    /// The peer handles it like a request, and the handler's answer is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if so many bytes are queued that the peer must be stuck, and
    /// otherwise a [`SendError`] for the message or the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{Peer, SendError};
    ///
    /// fn report(peer: &Peer<String>, text: &str) -> Result<(), SendError> {
    ///     match peer.notify(&text.to_owned()) {
    ///         Err(SendError::Full) => Ok(()), // This report can be lost.
    ///         other => other,
    ///     }
    /// }
    /// ```
    pub fn notify(&self, message: impl OneOf<R>) -> Result<(), SendError> {
        let message = message.into_all();
        let message: &R = message.borrow();
        self.link.notify(|draft| Ok(draft.encode(&self.codec, message)?))
    }

    /// Encodes a message for the peers of several connections. Returns `None` if it contains
    /// descriptors, of which each peer needs its own, or cannot be encoded.
    pub(crate) fn encoded(&self, message: &R) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut draft = Draft::new(&mut bytes, self.link.limits().descriptors);
        draft.encode(&self.codec, message).ok()?;
        draft.descriptors.is_empty().then_some(bytes)
    }

    /// Sends a message that another peer has [encoded](Self::encoded), like [`Peer::notify`].
    pub(crate) fn notify_encoded(&self, message: &[u8]) -> Result<(), SendError> {
        self.link.notify(|draft| {
            draft.bytes.extend_from_slice(message);
            Ok(())
        })
    }
}
