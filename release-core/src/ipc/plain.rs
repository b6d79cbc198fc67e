//! Plain mode: what the OCaml library, control sockets and scripts speak.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::limits::{FRAMES_PER_TURN, Limits};
use super::link::deadline::within_deadlines;
use super::link::{Incoming, Link, Mode};
use super::{Codec, CodecError, Ended, Postcard, ReadError, Refused, Request, SendError};
use crate::rt::{Rt, give_way};

mod client;

pub use client::Client;

/// The end of a plain connection that answers: requests of type `R` one after the other.
///
/// Dropping it closes the connection.
///
/// # Cancel safety
///
/// Dropping the future of any method loses no part of the stream: a request that was not returned
/// is returned by the next call, a response that was begun is sent whole.
pub struct Server<R, C = Postcard> {
    link: Arc<Link>,
    codec: C,
    /// How many requests have been read since others had their turn.
    in_a_row: usize,
    requests: PhantomData<fn() -> R>,
}

impl<R, C> fmt::Debug for Server<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("link", &self.link).finish_non_exhaustive()
    }
}

impl<R: Request, C: Codec<R> + Codec<R::Response>> Server<R, C> {
    pub(crate) fn with_limits(
        rt: &Rt,
        socket: OwnedFd,
        codec: C,
        limits: Limits,
    ) -> io::Result<Self> {
        let link = Arc::new(Link::new(rt, socket, Mode::PlainServer, limits)?);
        Ok(Self::over(link, codec))
    }

    /// Serves a link of a plain server, also one from an earlier image of this process.
    pub(crate) fn over(link: Arc<Link>, codec: C) -> Self {
        Self { link, codec, in_a_row: 0, requests: PhantomData }
    }

    /// Serves a connected stream socket.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the socket.
    pub fn new(rt: &Rt, socket: OwnedFd, codec: C) -> io::Result<Self> {
        Self::with_limits(rt, socket, codec, Limits::IPC)
    }

    /// [`Server::new`] with another frame limit than 16 MiB, in bytes.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the socket.
    pub fn with_frame_limit(rt: &Rt, socket: OwnedFd, codec: C, bytes: u32) -> io::Result<Self> {
        Self::with_limits(rt, socket, codec, Limits::IPC.with_frame(bytes))
    }

    /// The next request; `None` when the peer has closed the connection after a whole frame.
    ///
    /// # Errors
    ///
    /// [`ReadError::Codec`] for a request that does not decode: it has been taken from the stream
    /// and the connection goes on. [`ReadError::Ended`] when it does not.
    pub async fn read_request(&mut self) -> Result<Option<R>, ReadError> {
        self.read(|_| {}).await
    }

    /// [`read_request`](Self::read_request), which leaves the request's payload in `kept`.
    pub(crate) async fn read_request_and(
        &mut self,
        kept: &mut Vec<u8>,
    ) -> Result<Option<R>, ReadError> {
        self.read(|payload| {
            kept.clear();
            kept.extend_from_slice(payload);
        })
        .await
    }

    async fn read(&mut self, mut see: impl FnMut(&[u8])) -> Result<Option<R>, ReadError> {
        if self.in_a_row == FRAMES_PER_TURN {
            self.in_a_row = 0;
            give_way().await;
        }
        self.in_a_row += 1;
        let codec = &self.codec;
        let mut decode = |Incoming { body, .. }: Incoming<'_>| {
            see(body.bytes);
            body.decode(codec)
        };
        let link = &self.link;
        let read = poll_fn(|cx| link.poll_incoming(cx, 0, &mut decode));
        let decoded = within_deadlines(link, read).await;
        match decoded {
            Ok(decoded) => Ok(Some(decoded?)),
            Err(Ended::Closed) => Ok(None),
            Err(ended) => Err(ended.into()),
        }
    }

    /// Sends the answer to the request that was read last, or a message that nobody asked for.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn write_response(
        &mut self,
        response: &R::Response,
    ) -> impl Future<Output = Result<(), SendError>> + Send + use<'_, R, C> {
        // Encoded before the future exists, which so holds no reference to the response.
        let queued = self.link.queue(None, |draft| -> Result<(), SendError> {
            Ok(draft.encode(&self.codec, response)?)
        });
        async move {
            queued?;
            Ok(self.finish_answer().await?)
        }
    }

    /// Sends what is left of the last answer.
    pub(crate) async fn finish_answer(&self) -> Result<(), Ended> {
        let link = &*self.link;
        within_deadlines(link, poll_fn(|cx| link.poll_answered(cx).map(Ok))).await?;
        link.ended().map_or(Ok(()), Err)
    }

    /// Answers every request with `handler` until the peer closes the connection.
    ///
    /// # Errors
    ///
    /// The first [`ReadError`]; a handler that refuses, and a response that cannot be sent, end the
    /// connection too, because a plain stream has no way to say so.
    #[doc(alias = "handle_request")]
    pub async fn handle_requests<F>(
        &mut self,
        mut handler: impl FnMut(R) -> F,
    ) -> Result<(), ReadError>
    where
        F: Future<Output = Result<R::Response, Refused>>,
    {
        self.finish_answer().await?;
        while let Some(request) = self.read_request().await? {
            let response = match handler(request).await {
                Ok(response) => response,
                Err(refused) => {
                    return Err(CodecError::new(refused.into_words()).into());
                }
            };
            match self.write_response(&response).await {
                Ok(()) => {}
                Err(SendError::Ended(ended)) => return Err(ended.into()),
                Err(error) => return Err(CodecError::new(crate::error::chain(&error)).into()),
            }
        }
        Ok(())
    }
}
