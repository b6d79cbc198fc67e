//! `Stream`: a connected stream socket, with its reads and writes.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};

use crate::rt::{Direction, Io, Progress, Rt};

/// A connected TCP or Unix stream socket that any runtime watches.
///
/// Implements the `AsyncRead` and `AsyncWrite` of the futures crates; closing the write side sends
/// the end of file. One task may read while another writes.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use release_core::net::{Read, Stream};
/// use release_core::rt::{Driver, local::Local, run};
///
/// let driver = Local::new()?;
/// let (here, there) = UnixStream::pair()?;
/// run(&driver, async {
///     let rt = driver.handle();
///     let (here, there) = (Stream::new(&rt, here.into())?, Stream::new(&rt, there.into())?);
///     here.write_all(b"hello").await?;
///     drop(here);
///     assert_eq!(there.read(5, None).await?, Read::Data(b"hello".to_vec()));
///     assert_eq!(there.read(5, None).await?, Read::Eof(vec![]));
///     Ok::<(), std::io::Error>(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Stream {
    io: Io,
    rt: Rt,
}

/// What [`Stream::read`] came to. Nothing that was read is ever thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Read {
    /// As many bytes as were asked for.
    Data(Vec<u8>),
    /// The peer has closed; these bytes came before that.
    Eof(Vec<u8>),
    /// The time is over; these bytes came in it.
    TimedOut(Vec<u8>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.io).finish()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Stream {
    /// Watches a connected stream socket, which is made non-blocking.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn new(rt: &Rt, socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { io: rt.register(socket)?, rt: rt.clone() })
    }

    /// [`Stream::new`] for a connection that the standard library made.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn from_tcp(rt: &Rt, socket: TcpStream) -> io::Result<Self> {
        Self::new(rt, socket.into())
    }

    /// [`Stream::new`] for a connection that the standard library made.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn from_unix(rt: &Rt, socket: UnixStream) -> io::Result<Self> {
        Self::new(rt, socket.into())
    }

    /// Reads what is there, at most the buffer's length; 0 is the end of file.
    ///
    /// Interruptions and spurious wake-ups are not errors: the call goes on.
    ///
    /// # Errors
    ///
    /// Those of recv(2).
    ///
    /// # Cancel safety
    ///
    /// A dropped call has read nothing.
    pub async fn read_once(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_receive(cx, buffer)).await
    }

    /// Reads `count` bytes, waiting for them no longer than `limit`.
    ///
    /// Memory grows with what arrives.
    ///
    /// # Errors
    ///
    /// Those of recv(2).
    ///
    /// # Cancel safety
    ///
    /// None: bytes that a dropped call had read are lost. Give it a `limit` instead.
    pub async fn read(&self, count: usize, limit: Option<Duration>) -> io::Result<Read> {
        let deadline = limit.map(|limit| self.rt.after(limit));
        let mut data = Vec::new();
        // On the heap: the futures of all who read would hold it otherwise.
        let mut chunk = vec![0; count.min(8192)];
        while data.len() < count {
            let wanted = (count - data.len()).min(chunk.len());
            let reading = self.read_once(&mut chunk[..wanted]);
            let read = match deadline {
                None => reading.await?,
                Some(deadline) => match self.rt.timeout_at(deadline, reading).await {
                    Ok(read) => read?,
                    Err(_) => return Ok(Read::TimedOut(data)),
                },
            };
            if read == 0 {
                return Ok(Read::Eof(data));
            }
            data.extend_from_slice(&chunk[..read]);
        }
        Ok(Read::Data(data))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// Those of send(2); a peer that has gone is [`io::ErrorKind::BrokenPipe`], never a signal.
    ///
    /// # Cancel safety
    ///
    /// None: a dropped call may have written a part.
    #[doc(alias = "write")]
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                std::future::poll_fn(|cx| self.poll_send(cx, &[IoSlice::new(bytes)])).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Closes one side or both for this and every other holder of the socket.
    ///
    /// # Errors
    ///
    /// Those of shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => nix::sys::socket::Shutdown::Read,
            Shutdown::Write => nix::sys::socket::Shutdown::Write,
            Shutdown::Both => nix::sys::socket::Shutdown::Both,
        };
        Ok(nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), how)?)
    }

    pub(super) fn io(&self) -> &Io {
        &self.io
    }

    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.io.poll(cx, Direction::Read, |fd| {
            let count = recv(fd.as_raw_fd(), &mut *buffer, MsgFlags::MSG_DONTWAIT)?;
            // Never "drained": on a Unix socket, descriptors that somebody attached to the data end
            // a read early although more is there.
            Ok((count, Progress::More))
        })
    }

    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        self.io.poll(cx, Direction::Write, |fd| {
            let none: &[ControlMessage<'_>] = &[];
            let count = sendmsg::<()>(fd.as_raw_fd(), parts, none, flags, None)?;
            Ok((count, Progress::More))
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_receive(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shutdown(Shutdown::Write) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
