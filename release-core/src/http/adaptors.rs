//! The executor and the stream that hyper needs. The stream reports its reads.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};

use super::activity::Activity;
use crate::net::Stream;
use crate::rt::Rt;

/// Spawns the streams of HTTP/2.
#[derive(Clone)]
pub(super) struct Spawner(pub(super) Rt);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future).detach();
    }
}

/// Bytes read in one system call. They pass through the stack, where hyper's buffer, which is not
/// initialized, cannot be lent without `unsafe`.
const CHUNK: usize = 8 * 1024;

/// A connection, for hyper.
pub(super) struct Io {
    pub(super) stream: Stream,
    pub(super) activity: Arc<Activity>,
    /// Dropped when the connection is closed, which is later than hyper's end if it was upgraded.
    pub(super) _open: oneshot::Sender<Infallible>,
}

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        let count = ready!(self.stream.poll_receive(cx, &mut chunk[..room]))?;
        buffer.put_slice(&chunk[..count]);
        if count > 0 {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, &[io::IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.close())
    }
}
