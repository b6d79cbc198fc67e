//! The executor, the timer and the stream that hyper needs. They report what hyper does.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use hyper::Version;
use hyper::rt::{Executor, Read, ReadBufCursor, Sleep, Timer, Write};

use super::activity::Activity;
use super::transport::Transport;
use crate::rt::Rt;

/// Spawns the streams of HTTP/2, and the tunnels that outlive the answer to CONNECT. Each is in hand until
/// it ends.
#[derive(Clone)]
pub(super) struct Spawner(pub(super) Rt, pub(super) Arc<Activity>);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let in_hand = self.1.begin(Version::HTTP_2);
        let stream = async move {
            let _until_the_end = in_hand;
            future.await
        };
        self.0.spawn(stream).detach();
    }
}

/// The timer of HTTP/1. Hyper sets it when it begins to wait for the head of a request, so the body of the
/// request before was read to its end. Nothing else tells that. The time limits are not hyper's: it never
/// expires.
pub(super) struct HeadTimer(pub(super) Arc<Activity>);

/// A sleep without an end.
struct Endless;

impl Future for Endless {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Endless {}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Endless)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.set_body(false);
        Box::pin(Endless)
    }
}

/// Bytes read in one system call. They pass through the stack, where hyper's buffer, which is not
/// initialized, cannot be lent without `unsafe`.
const CHUNK: usize = 8 * 1024;

/// A connection, for hyper.
pub(super) struct HyperIo {
    pub(super) transport: Transport,
    /// Bytes that were read and not used yet.
    pub(super) unread: Vec<u8>,
    pub(super) activity: Arc<Activity>,
    /// Dropped when the connection is closed, which is later than hyper's end if it was upgraded.
    pub(super) _open: oneshot::Sender<Infallible>,
}

/// The first bytes of HTTP/2, which no request of HTTP/1 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl HyperIo {
    /// Reads until the version is known. Returns whether it is HTTP/2.
    pub(super) fn poll_is_http2(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let known = self.unread.len().min(PREFACE.len());
            if self.unread[..known] != PREFACE[..known] || known == PREFACE.len() {
                return Poll::Ready(Ok(known == PREFACE.len() && self.unread.starts_with(PREFACE)));
            }
            let mut chunk = [0; CHUNK];
            let count = ready!(self.transport.poll_receive(cx, &mut chunk))?;
            if count == 0 {
                return Poll::Ready(Ok(false));
            }
            self.unread.extend_from_slice(&chunk[..count]);
            self.activity.received();
        }
    }
}

impl Read for HyperIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let mut chunk = [0; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        let count = ready!(self.transport.poll_receive(cx, &mut chunk[..room]))?;
        buffer.put_slice(&chunk[..count]);
        if count > 0 {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for HyperIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.activity.flushed(false);
        let count = ready!(self.transport.poll_send(cx, bytes))?;
        self.activity.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.takes_parts()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.flushed(false);
        let count = ready!(self.transport.poll_send_parts(cx, parts))?;
        self.activity.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.transport.poll_flush(cx))?;
        self.activity.flushed(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_close(cx)
    }
}
