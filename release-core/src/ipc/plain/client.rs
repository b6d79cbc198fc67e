//! The client's side of a connection in plain mode.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc;

use crate::ipc::limits::Limits;
use crate::ipc::link::deadline::within_deadlines;
use crate::ipc::link::{Incoming, Link, Mode};
use crate::ipc::{CallError, Codec, CodecError, Ended, OneOf, Peer, Postcard, Request};
use crate::rt::{Rt, Task};

/// The client's side of a connection in plain mode. Any number of tasks may call at the same time.
///
/// A call that is dropped does not affect others: its answer is skipped when it arrives.
///
/// # Examples
///
/// ```
/// use futures_util::future::try_join;
/// use release_core::ipc::{CallError, Text, plain::Client};
///
/// async fn two(client: &Client<String, Text>) -> Result<(String, String), CallError> {
///     let (status, workers) = ("status".to_owned(), "workers".to_owned());
///     try_join(client.call(&status), client.call(&workers)).await
/// }
/// ```
pub struct Client<R, C = Postcard> {
    peer: Peer<R, C>,
    messages: futures_util::lock::Mutex<mpsc::Receiver<Vec<u8>>>,
    codec: C,
    _background: Task<()>,
}

/// Maximum number of unsolicited messages in memory. Further ones are dropped.
const KEPT_MESSAGES: usize = 1024;

impl<R, C> fmt::Debug for Client<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<R: Request, C: Codec<R> + Codec<R::Response>> Client<R, C> {
    /// Creates a client for a connected stream socket.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io, os::unix::net::UnixStream};
    /// use release_core::ipc::{Text, plain::Client};
    /// use release_core::rt::Rt;
    ///
    /// fn connect(rt: &Rt) -> io::Result<Client<String, Text>> {
    ///     let socket = UnixStream::connect("/run/service.sock")?;
    ///     Client::new(rt, socket.into(), Text)
    /// }
    /// ```
    pub fn new(rt: &Rt, socket: OwnedFd, codec: C) -> io::Result<Self> {
        Self::with_end(rt, socket, codec, Limits::IPC, || {})
    }

    /// Creates a client with a frame limit in bytes, in place of 16 MiB.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io, os::unix::net::UnixStream};
    /// use release_core::ipc::{Text, plain::Client};
    /// use release_core::rt::Rt;
    ///
    /// fn small(rt: &Rt, socket: UnixStream) -> io::Result<Client<String, Text>> {
    ///     Client::with_frame_limit(rt, socket.into(), Text, 4096)
    /// }
    /// ```
    pub fn with_frame_limit(rt: &Rt, socket: OwnedFd, codec: C, bytes: u32) -> io::Result<Self> {
        Self::with_end(rt, socket, codec, Limits::IPC.with_frame(bytes), || {})
    }

    /// Like [`Client::new`], with limits. Calls `end` when the connection has ended.
    pub(crate) fn with_end(
        rt: &Rt,
        socket: OwnedFd,
        codec: C,
        limits: Limits,
        end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let link = Arc::new(Link::new(rt, socket, Mode::PlainClient, limits)?);
        let (sender, receiver) = mpsc::channel(KEPT_MESSAGES);
        Ok(Self {
            peer: Peer::new(Arc::clone(&link), codec.clone()),
            messages: futures_util::lock::Mutex::new(receiver),
            codec,
            _background: rt.spawn(async move {
                background(link, sender).await;
                end();
            }),
        })
    }

    /// Sends a request and waits for the answer, as long as the connection lives.
    ///
    /// # Errors
    ///
    /// Returns a [`CallError`] if there is no answer.
    ///
    /// # Cancel safety
    ///
    /// The answer to a dropped call is skipped when it arrives; the next call receives its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{CallError, Text, plain::Client};
    ///
    /// async fn status(client: &Client<String, Text>) -> Result<String, CallError> {
    ///     client.call(&"status".to_owned()).await
    /// }
    /// ```
    #[doc(alias = "make_request")]
    pub async fn call<Q: OneOf<R>>(&self, request: Q) -> Result<Q::Response, CallError> {
        self.peer.call(request).await
    }

    /// Sends a request and waits for the answer, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// Returns [`CallError::TimedOut`] after the timeout, and otherwise the errors of
    /// [`Client::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ipc::{CallError, Text, plain::Client};
    ///
    /// async fn status(client: &Client<String, Text>) -> Result<String, CallError> {
    ///     client.call_within(Duration::from_secs(5), &"status".to_owned()).await
    /// }
    /// ```
    pub async fn call_within<Q: OneOf<R>>(
        &self,
        timeout: Duration,
        request: Q,
    ) -> Result<Q::Response, CallError> {
        self.peer.call_within(timeout, request).await
    }

    /// Returns the next message that arrived while no call was waiting, such as a broadcast of the
    /// OCaml library, or `None` when the connection has ended.
    ///
    /// In plain mode, a message cannot be told from an answer. If it arrives while a call waits,
    /// the call receives it. Programs that need both should use call mode.
    ///
    /// # Errors
    ///
    /// Returns a [`CodecError`] if the message is not an encoded response.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{CodecError, Text, plain::Client};
    ///
    /// async fn print_all(client: &Client<String, Text>) -> Result<(), CodecError> {
    ///     while let Some(message) = client.next_message().await? {
    ///         println!("{message}");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn next_message(&self) -> Result<Option<R::Response>, CodecError> {
        use futures_util::StreamExt;
        match self.messages.lock().await.next().await {
            Some(payload) => self.codec.decode(&payload).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the reason why the connection has ended, or `None` while it lives.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{Text, plain::Client};
    ///
    /// fn is_alive(client: &Client<String, Text>) -> bool {
    ///     client.ended().is_none()
    /// }
    /// ```
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.peer.ended()
    }
}

/// Stores messages for [`Client::next_message`], sends queued frames, and detects the end.
async fn background(link: Arc<Link>, mut messages: mpsc::Sender<Vec<u8>>) {
    let mut dropped = false;
    loop {
        let mut take = |incoming: Incoming<'_>| incoming.body.bytes.to_vec();
        let read = poll_fn(|cx| link.poll_incoming(cx, 0, &mut take));
        let Ok(message) = within_deadlines(&link, read).await else {
            return;
        };
        // Reading never waits until messages are taken: an answer may follow them.
        if messages.try_send(message).is_err() && !std::mem::replace(&mut dropped, true) {
            log_warning!("messages of the master are dropped: nobody takes them");
        }
    }
}
