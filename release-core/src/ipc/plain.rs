//! Plain mode: the protocol of the OCaml library, control sockets and scripts.
//!
//! # Examples
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use release_core::ipc::{Text, plain::{Client, Server}};
//! use release_core::rt::{Driver, local::Local, run};
//!
//! let driver = Local::new()?;
//! let (here, there) = UnixStream::pair()?;
//! run(&driver, async {
//!     let rt = driver.handle();
//!     let mut server = Server::<String, Text>::new(&rt, there.into(), Text)?;
//!     let _serving = rt.spawn(async move {
//!         server.handle_requests(|name| async move { Ok(format!("hello {name}")) }).await
//!     });
//!     let client = Client::<String, Text>::new(&rt, here.into(), Text)?;
//!     let answer = client.call(&"world".to_owned()).await;
//!     assert_eq!(answer.ok().as_deref(), Some("hello world"));
//!     Ok::<(), std::io::Error>(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

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

/// The server's side of a connection in plain mode. It answers requests of type `R`, one after the
/// other.
///
/// Dropping it closes the connection.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{ReadError, Text, plain::Server};
///
/// async fn count_words(mut server: Server<String, Text>) -> Result<(), ReadError> {
///     let count = |text: String| async move { Ok(text.split(' ').count().to_string()) };
///     server.handle_requests(count).await
/// }
/// ```
///
/// # Cancel safety
///
/// Dropping the future of a method loses no part of the stream. The next call returns a request
/// that was not returned, and a response that was started is sent completely.
pub struct Server<R, C = Postcard> {
    link: Arc<Link>,
    codec: C,
    /// Number of requests read since the task yielded.
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

    /// Serves a link in plain mode, for example from an earlier image of this process.
    pub(crate) fn over(link: Arc<Link>, codec: C) -> Self {
        Self { link, codec, in_a_row: 0, requests: PhantomData }
    }

    /// Creates a server for a connected stream socket.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io, os::unix::net::UnixStream};
    /// use release_core::ipc::{Text, plain::Server};
    /// use release_core::rt::Rt;
    ///
    /// fn serve(rt: &Rt, accepted: UnixStream) -> io::Result<Server<String, Text>> {
    ///     Server::new(rt, accepted.into(), Text)
    /// }
    /// ```
    pub fn new(rt: &Rt, socket: OwnedFd, codec: C) -> io::Result<Self> {
        Self::with_limits(rt, socket, codec, Limits::IPC)
    }

    /// Creates a server with a frame limit in bytes, in place of 16 MiB.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{io, os::unix::net::UnixStream};
    /// use release_core::ipc::{Text, plain::Server};
    /// use release_core::rt::Rt;
    ///
    /// fn serve(rt: &Rt, accepted: UnixStream) -> io::Result<Server<String, Text>> {
    ///     Server::with_frame_limit(rt, accepted.into(), Text, 4096)
    /// }
    /// ```
    pub fn with_frame_limit(rt: &Rt, socket: OwnedFd, codec: C, bytes: u32) -> io::Result<Self> {
        Self::with_limits(rt, socket, codec, Limits::IPC.with_frame(bytes))
    }

    /// Returns the next request, or `None` when the peer has closed the connection after a complete
    /// frame.
    ///
    /// # Errors
    ///
    /// Returns [`ReadError::Codec`] if the request does not decode. It is then removed from the
    /// stream, and you can read the next one. Returns [`ReadError::Ended`] if the connection has
    /// ended for another reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{ReadError, Text, plain::Server};
    ///
    /// async fn count(mut server: Server<String, Text>) -> Result<usize, ReadError> {
    ///     let mut requests = 0;
    ///     while server.read_request().await?.is_some() {
    ///         requests += 1;
    ///     }
    ///     Ok(requests)
    /// }
    /// ```
    pub async fn read_request(&mut self) -> Result<Option<R>, ReadError> {
        self.read(|_| {}).await
    }

    /// Like [`read_request`](Self::read_request). Copies the request's payload to `kept`.
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

    /// Sends the answer to the last request, or an unsolicited message.
    ///
    /// # Errors
    ///
    /// Returns a [`SendError`] if the response is too long or does not encode, or if the connection
    /// has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error;
    /// use release_core::ipc::{Text, plain::Server};
    ///
    /// async fn echo_once(server: &mut Server<String, Text>) -> Result<(), Box<dyn Error>> {
    ///     if let Some(text) = server.read_request().await? {
    ///         server.write_response(&text).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn write_response(
        &mut self,
        response: &R::Response,
    ) -> impl Future<Output = Result<(), SendError>> + Send + use<'_, R, C> {
        // Encoded here, so that the future holds no reference to the response.
        let queued = self.link.queue(None, |draft| -> Result<(), SendError> {
            Ok(draft.encode(&self.codec, response)?)
        });
        async move {
            queued?;
            Ok(self.finish_answer().await?)
        }
    }

    /// Sends the rest of the last answer.
    pub(crate) async fn finish_answer(&self) -> Result<(), Ended> {
        let link = &*self.link;
        within_deadlines(link, poll_fn(|cx| link.poll_answered(cx).map(Ok))).await?;
        link.ended().map_or(Ok(()), Err)
    }

    /// Answers each request with `handler` until the peer closes the connection.
    ///
    /// # Errors
    ///
    /// Returns the first [`ReadError`]. A refusal of the handler and a response that cannot be sent
    /// also end the connection, because plain mode has no error answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{ReadError, Text, plain::Server};
    ///
    /// async fn echo(mut server: Server<String, Text>) -> Result<(), ReadError> {
    ///     server.handle_requests(|text| async move { Ok(text) }).await
    /// }
    /// ```
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
