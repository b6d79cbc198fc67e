//! `Peer`: the side of a connection in call mode that sends requests.

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
use crate::rt::{Rt, Task, wait_for};

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
    /// Sends a request and waits for the answer, as long as the connection lives.
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
    pub async fn call(&self, request: &R) -> Result<R::Response, CallError> {
        self.ask(request, None).await
    }

    /// Sends a request and waits for the answer, at most for `timeout`.
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
    pub async fn call_within(
        &self,
        timeout: Duration,
        request: &R,
    ) -> Result<R::Response, CallError> {
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
    pub fn blocking_call(&self, request: &R) -> Result<R::Response, CallError> {
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
    pub fn blocking_call_within(
        &self,
        timeout: Duration,
        request: &R,
    ) -> Result<R::Response, CallError> {
        let call = self.call_within(timeout, request);
        wait_for(call).unwrap_or(Err(CallError::WouldDeadlock))
    }

    async fn ask(&self, request: &R, timeout: Option<Duration>) -> Result<R::Response, CallError> {
        if !self.link.can_ask() {
            return Err(CallError::Refused("a worker in plain mode answers nothing".to_owned()));
        }
        let mut encode = |draft: &mut Draft<'_>| -> Result<(), CallError> {
            Ok(draft.encode(&self.codec, request)?)
        };
        let mut waiting = WaitingCaller::new(&self.link);
        let asking =
            |cx: &mut Context<'_>| self.link.poll_request(cx, &mut waiting, timeout, &mut encode);
        let number = poll_fn(asking).await?;
        let mut pending = PendingCall { link: &self.link, number: Some(number) };
        let mut decode = |answer: Answer<'_>| match answer {
            Answer::Given(body) => body.decode(&self.codec).map_err(CallError::Codec),
            Answer::Refused(why) => {
                Err(CallError::Refused(String::from_utf8_lossy(why).into_owned()))
            }
        };
        let answer = poll_fn(|cx| self.link.poll_answer(cx, number, &mut decode)).await;
        pending.number = None;
        answer.unwrap_or_else(|ended| Err(ended.into()))
    }

    /// Sends a message without waiting for an answer. If the socket is full, the message is queued.
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

/// Starts call mode over a connected stream socket of your own. The peer answers requests of type
/// `R`; `handler` answers its requests of type `S`.
///
/// Master and workers are already connected in this way; this function is for other pairs of
/// processes. The task serves the connection and returns the reason when it has ended. Dropping
/// the task ends the connection.
///
/// # Errors
///
/// Returns an error if the runtime cannot register the socket.
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

/// Starts call mode over a Unix socket, for messages that contain a
/// [`Descriptor`](super::Descriptor). Otherwise it works like [`connect`].
///
/// One message may contain up to `descriptors` of them, at most 253. The same limit applies to all
/// unanswered requests of one side together. Both sides must use the same limit.
///
/// # Errors
///
/// Returns an error if the runtime cannot register the socket.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read};
/// use std::os::{fd::OwnedFd, unix::net::UnixStream};
/// use release_core::ipc::{Descriptor, Postcard, Request, connect_with_descriptors as connect};
/// use release_core::rt::{Driver, local::Local, run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Open;
/// impl Request for Open {
///     type Response = Descriptor;
/// }
///
/// let driver = Local::new()?;
/// let (here, there) = UnixStream::pair()?;
/// run(&driver, async {
///     let rt = driver.handle();
///     let open = |Open| async { Ok(Descriptor::new(std::fs::File::open("/proc/self/comm")?)) };
///     let (_, _serving) = connect::<Open, Open, _, _, _>(&rt, there.into(), Postcard, 1, open)?;
///     let (peer, _task) = connect::<Open, Open, _, _, _>(&rt, here.into(), Postcard, 1, open)?;
///     let answer = peer.call(&Open).await.map_err(io::Error::other)?;
///     let mut name = String::new();
///     std::fs::File::from(OwnedFd::from(answer)).read_to_string(&mut name)?;
///     assert!(!name.is_empty());
///     Ok::<(), io::Error>(())
/// })?;
/// # Ok::<(), io::Error>(())
/// ```
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

/// A sent request without an answer. Dropping it cancels the request.
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
