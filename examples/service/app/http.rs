//! hyper over our runtime: the adaptors, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_io::{AsyncRead, AsyncWrite};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use release::Stopping;
use release::net::{Active, Inet, Passive, Socket, Stream};
use release::rt::{BoxFuture, Rt};

/// How long a client may take to send the head of a request; less than a stop may take.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long a connection without a request stays open after the stop. Its client may be sending the
/// next one at this very moment: that one is answered, and told that it is the last.
const LAST_TIME: Duration = Duration::from_secs(1);

/// Serves HTTP/1 connections until it is told to stop; then lets requests in hand finish, answers
/// one more on each connection, and closes those that ask for nothing.
pub(crate) async fn serve<F>(
    rt: &Rt,
    socket: Socket<Passive, Inet>,
    stopping: Stopping,
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) -> io::Result<()>
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(Clock(rt.clone())).header_read_timeout(HEAD_TIME);
    let answer = Arc::new(answer);
    let (timer, stopped) = (rt.clone(), stopping.clone());
    let connection = move |client: Socket<Active, Inet>| {
        let (answer, last) = (Arc::clone(&answer), stopping.clone());
        let service = service_fn(move |request| {
            let (answered, last) = (answer(request), last.clone());
            async move {
                let mut response = answered.await?;
                if last.now_or_never().is_some() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http.serve_connection(Adapted(client.into_stream()), service);
        let (timer, stopping) = (timer.clone(), stopping.clone());
        async move {
            let mut connection = pin!(connection);
            let last = pin!(async { timer.sleep(LAST_TIME).await });
            let stopped = select(connection.as_mut(), stopping.then(|()| last));
            if let Either::Right(_) = stopped.await {
                connection.as_mut().graceful_shutdown();
                // Clients that go away in the middle are their own business.
                let _ = connection.await;
            }
            Ok::<(), Infallible>(())
        }
    };
    socket.accept_loop().until(stopped).run(connection).await?;
    Ok(())
}

/// Our stream as hyper wants it.
struct Adapted(Stream);

impl Read for Adapted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; 4096];
        let room = buffer.remaining().min(chunk.len());
        let count = ready!(Pin::new(&mut self.0).poll_read(cx, &mut chunk[..room]))?;
        buffer.put_slice(&chunk[..count]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Adapted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }
}

/// Our timers as hyper wants them.
#[derive(Clone)]
struct Clock(Rt);

/// hyper shares its timers between threads, but polls them from one.
struct Wait(Mutex<BoxFuture>);

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

impl Sleep for Wait {}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.0.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let rt = self.0.clone();
        Box::pin(Wait(Mutex::new(Box::pin(async move { rt.sleep_until(deadline).await }))))
    }
}
