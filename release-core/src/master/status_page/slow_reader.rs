//! `SlowReader`: a connection that ends when its client does not read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};

use super::crowd::CrowdPlace;
use crate::net::Stream;
use crate::rt::Rt;

/// How long a client may leave everything unread that is sent to it.
const UNREAD: Duration = Duration::from_secs(10);

type PatienceTimer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection whose writes fail when none of the bytes can be sent for a time.
pub(super) struct SlowReader {
    stream: Stream,
    /// Received already.
    first: Bytes,
    /// Nothing was received, and nothing will be.
    is_over: bool,
    rt: Rt,
    _place: CrowdPlace,
    /// While nothing can be sent.
    late: Option<PatienceTimer>,
}

impl SlowReader {
    /// `first` was received already. If it is empty, the connection is over.
    pub(super) fn new(rt: &Rt, stream: Stream, first: Vec<u8>, place: CrowdPlace) -> Self {
        let (is_over, first) = (first.is_empty(), first.into());
        Self { stream, first, is_over, rt: rt.clone(), _place: place, late: None }
    }
}

impl AsyncRead for SlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Ok(0));
        }
        if !self.first.is_empty() {
            let count = buffer.len().min(self.first.len());
            buffer[..count].copy_from_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(count));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SlowReader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(written) = Pin::new(&mut this.stream).poll_write(cx, bytes) {
            this.late = None;
            return Poll::Ready(written);
        }
        let rt = &this.rt;
        let late = this.late.get_or_insert_with(|| {
            let rt = rt.clone();
            Box::pin(async move { rt.sleep(UNREAD).await })
        });
        ready!(late.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
