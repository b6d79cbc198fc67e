//! `Protocol`: hyper's part of a connection, in either version.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};

use super::adaptors::{HyperIo, Spawner};
use super::transport::BoxError;

/// A connection of either version.
pub(super) enum Protocol<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
{
    Http1(Box<http1::UpgradeableConnection<HyperIo, S>>),
    Http2(Pin<Box<http2::Connection<HyperIo, S, Spawner>>>),
}

impl<S, B> Protocol<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Lets the connection end with the answers to its requests.
    pub(super) fn graceful_shutdown(&mut self) {
        match self {
            Self::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Self::Http2(connection) => connection.as_mut().graceful_shutdown(),
        }
    }

    /// Returns the stream of a connection of HTTP/1, with what was read and not used, and the service.
    pub(super) fn into_parts(self) -> Option<(HyperIo, S)> {
        let Self::Http1(connection) = self else { return None };
        let http1::Parts { mut io, read_buf, service, .. } = connection.into_parts()?;
        io.unread.splice(..0, read_buf);
        Some((io, service))
    }
}

impl<S, B> Future for Protocol<S, B>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut *self {
            Self::Http1(connection) => Pin::new(&mut **connection).poll(cx),
            Self::Http2(connection) => connection.as_mut().poll(cx),
        };
        polled.map_err(Into::into)
    }
}
