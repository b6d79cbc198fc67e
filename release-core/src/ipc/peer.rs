//! `Peer`: call mode, as the one who asks sees it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use super::limits::Limits;
use super::link::answers::Answer;
use super::link::{Link, Mode, WaitingCaller};
use super::serve::serve;
use super::{CallError, Codec, Ended, Postcard, Refused, Request, SendError};
use crate::ipc::wire::body::Draft;
use crate::ipc::wire::header::RequestNumber;
use crate::rt::{Rt, Task};

/// The other process, to ask it requests of type `R`.
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

    #[cfg(test)]
    pub(crate) fn link(&self) -> &Link {
        &self.link
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
    ///
    /// Poll it or drop it: a call that is the only one of its connection reads for all, so while it
    /// is kept without being polled, as a branch of a loop may do, requests of the peer wait.
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
        let mut encode = |draft: &mut Draft<'_>| -> Result<(), CallError> {
            Ok(draft.encode(&self.codec, request)?)
        };
        let mut place = WaitingCaller::new(&self.link);
        let asking =
            |cx: &mut Context<'_>| self.link.poll_request(cx, &mut place, patience, &mut encode);
        let number = poll_fn(asking).await?;
        let mut ticket = PendingCall { link: &self.link, number: Some(number) };
        let mut decode = |answer: Answer<'_>| match answer {
            Answer::Given(body) => body.decode(&self.codec).map_err(CallError::Codec),
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
        self.link.queue(self.link.notice(), |draft| -> Result<(), SendError> {
            Ok(draft.encode(&self.codec, message)?)
        })?;
        self.link.flush_now();
        Ok(())
    }
}

/// Speaks call mode over a connected stream socket of your own: asks requests of type `R`, and
/// answers those of type `S` with `handler`.
///
/// Master and workers are connected so already; this is for other pairs of processes. The task
/// serves the connection until it ends, and says why; dropping the task ends the connection.
///
/// # Errors
///
/// When the runtime cannot watch the socket.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use release_core::ipc::{Never, Postcard, Request, connect};
/// use release_core::rt::{Driver, local::Local, run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Double(u32);
/// impl Request for Double {
///     type Response = u32;
/// }
///
/// let driver = Local::new()?;
/// let (here, there) = UnixStream::pair()?;
/// run(&driver, async {
///     let rt = driver.handle();
///     let double = |Double(number)| async move { Ok(2 * number) };
///     let (_, _serving) = connect::<Never, Double, _, _, _>(&rt, there.into(), Postcard, double)?;
///     let refuse = |never: Never| async move { match never {} };
///     let (peer, _task) = connect::<Double, _, _, _, _>(&rt, here.into(), Postcard, refuse)?;
///     assert_eq!(peer.call(&Double(21)).await.ok(), Some(42));
///     Ok::<(), std::io::Error>(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn connect<R, S, C, H, F>(
    rt: &Rt,
    socket: OwnedFd,
    codec: C,
    handler: H,
) -> io::Result<(Peer<R, C>, Task<Ended>)>
where
    R: Request,
    S: Request,
    C: Codec<R> + Codec<R::Response> + Codec<S> + Codec<S::Response>,
    H: Fn(S) -> F + Send + Sync + 'static,
    F: Future<Output = Result<S::Response, Refused>> + Send + 'static,
{
    connect_with_descriptors(rt, socket, codec, 0, handler)
}

/// [`connect`] over a Unix socket, for messages that hold a [`Descriptor`](super::Descriptor).
///
/// One message may have `descriptors` of them, at most 253, and so may the unanswered requests of one
/// side together; both sides have to say the same.
///
/// # Errors
///
/// When the runtime cannot watch the socket.
pub fn connect_with_descriptors<R, S, C, H, F>(
    rt: &Rt,
    socket: OwnedFd,
    codec: C,
    descriptors: u8,
    handler: H,
) -> io::Result<(Peer<R, C>, Task<Ended>)>
where
    R: Request,
    S: Request,
    C: Codec<R> + Codec<R::Response> + Codec<S> + Codec<S::Response>,
    H: Fn(S) -> F + Send + Sync + 'static,
    F: Future<Output = Result<S::Response, Refused>> + Send + 'static,
{
    let limits = Limits::IPC.with_descriptors(descriptors);
    let link = Arc::new(Link::new(rt, socket, Mode::Calls, limits)?);
    let peer = Peer::new(Arc::clone(&link), codec.clone());
    let serving = rt.spawn(serve(link, codec, move |request| Ok(handler(request)), |_| {}));
    Ok((peer, serving))
}

/// A request that was sent and not answered; dropping it gives the answer up.
struct PendingCall<'a> {
    link: &'a Link,
    number: Option<RequestNumber>,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.abandon(number);
        }
    }
}
