//! The end of a plain connection that asks.

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
use crate::ipc::{CallError, Codec, CodecError, Ended, Peer, Postcard, Request};
use crate::rt::{Rt, Task};

/// The end of a plain connection that asks, from as many tasks as you like.
///
/// A caller that gives up disturbs nobody: its answer is skipped when it comes.
pub struct Client<R, C = Postcard> {
    peer: Peer<R, C>,
    messages: futures_util::lock::Mutex<mpsc::Receiver<Vec<u8>>>,
    codec: C,
    _background: Task<()>,
}

/// How many messages that nobody asked for are kept until they are taken; more are dropped.
const KEPT_MESSAGES: usize = 1024;

impl<R, C> fmt::Debug for Client<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<R: Request, C: Codec<R> + Codec<R::Response>> Client<R, C> {
    /// Asks over a connected stream socket.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the socket.
    pub fn new(rt: &Rt, socket: OwnedFd, codec: C) -> io::Result<Self> {
        Self::with_end(rt, socket, codec, Limits::IPC, || {})
    }

    /// [`Client::new`] with another frame limit than 16 MiB, in bytes.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the socket.
    pub fn with_frame_limit(rt: &Rt, socket: OwnedFd, codec: C, bytes: u32) -> io::Result<Self> {
        Self::with_end(rt, socket, codec, Limits::IPC.with_frame(bytes), || {})
    }

    /// [`Client::new`], with a function that is called when the connection has ended.
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

    /// Asks, and waits for the answer for as long as the connection lives.
    ///
    /// # Errors
    ///
    /// See [`CallError`](CallError).
    ///
    /// # Cancel safety
    ///
    /// A dropped call's answer is skipped when it comes; the next call gets its own.
    #[doc(alias = "make_request")]
    pub async fn call(&self, request: &R) -> Result<R::Response, CallError> {
        self.peer.call(request).await
    }

    /// Asks, and gives up after `patience`.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`](CallError::TimedOut), and what [`Client::call`] gives.
    pub async fn call_within(
        &self,
        patience: Duration,
        request: &R,
    ) -> Result<R::Response, CallError> {
        self.peer.call_within(patience, request).await
    }

    /// The next message that came while no answer was awaited, a broadcast of the OCaml library;
    /// `None` when the connection has ended.
    ///
    /// On a plain stream such a message looks like an answer: one that comes while an answer is
    /// awaited is taken for it. Programs that need both use call mode.
    ///
    /// # Errors
    ///
    /// [`CodecError`] when it is not the encoding of a response.
    pub async fn next_message(&self) -> Result<Option<R::Response>, CodecError> {
        use futures_util::StreamExt;
        match self.messages.lock().await.next().await {
            Some(payload) => self.codec.decode(&payload).map(Some),
            None => Ok(None),
        }
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.peer.ended()
    }
}

/// Keeps messages for [`Client::next_message`], sends what waits for room, notices the end.
async fn background(link: Arc<Link>, mut messages: mpsc::Sender<Vec<u8>>) {
    let mut dropped = false;
    loop {
        let mut take = |incoming: Incoming<'_>| incoming.body.bytes.to_vec();
        let read = poll_fn(|cx| link.poll_incoming(cx, 0, &mut take));
        let Ok(message) = within_deadlines(&link, read).await else {
            return;
        };
        // Reading never waits for somebody to take messages: an answer may be behind them.
        if messages.try_send(message).is_err() && !std::mem::replace(&mut dropped, true) {
            tracing::warn!("messages of the master are dropped: nobody takes them");
        }
    }
}
