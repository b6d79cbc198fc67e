//! `Transport`: the bytes of a connection, after its handshake if it has one.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};

use crate::net::Stream;
use crate::rt::Rt;

/// A stream that can be read and written.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// The bytes of a connection.
pub(super) enum Transport {
    /// Of its socket.
    Socket(Stream),
    /// Of a protocol above its socket, such as TLS.
    Above(Pin<Box<dyn Duplex>>),
}

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type TransportFuture = Pin<Box<dyn Future<Output = Result<Transport, BoxError>> + Send>>;

/// Makes the stream of a connection from its socket.
pub(super) type Handshake = dyn Fn(Stream) -> TransportFuture + Send + Sync;

/// Makes a handshake of the program's function.
pub(super) fn handshake<F, H, T, E>(function: F) -> Arc<Handshake>
where
    F: Fn(Stream) -> H + Send + Sync + 'static,
    H: Future<Output = Result<T, E>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + 'static,
    E: Into<BoxError>,
{
    Arc::new(move |socket| {
        let done = function(socket);
        Box::pin(async move {
            let stream = done.await.map_err(Into::into)?;
            Ok(Transport::Above(Box::pin(stream)))
        })
    })
}

impl Transport {
    /// Completes the handshake of a connection, if it has one, within this time.
    pub(super) async fn new(
        rt: &Rt,
        socket: Stream,
        handshake: Option<Arc<Handshake>>,
        limit: Duration,
    ) -> Result<Self, BoxError> {
        let Some(handshake) = handshake else { return Ok(Self::Socket(socket)) };
        match rt.timeout(limit, handshake(socket)).await {
            Ok(Ok(transport)) => Ok(transport),
            Ok(Err(error)) => Err(format!("the handshake failed: {error}").into()),
            Err(_) => Err(format!("the handshake took longer than {limit:?}").into()),
        }
    }

    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(stream) => stream.poll_receive(cx, buffer),
            Self::Above(stream) => stream.as_mut().poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(stream) => stream.poll_send(cx, &[IoSlice::new(bytes)]),
            Self::Above(stream) => stream.as_mut().poll_write(cx, bytes),
        }
    }

    /// Whether several parts are best sent in one call. Above a socket, most protocols would send each
    /// part on its own.
    pub(super) fn takes_parts(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    pub(super) fn poll_send_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(stream) => stream.poll_send(cx, parts),
            Self::Above(stream) => stream.as_mut().poll_write_vectored(cx, parts),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(_) => Poll::Ready(Ok(())),
            Self::Above(stream) => stream.as_mut().poll_flush(cx),
        }
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(stream) => Poll::Ready(stream.close()),
            Self::Above(stream) => stream.as_mut().poll_close(cx),
        }
    }
}
