//! `Stream`: a connected stream socket, with reads and writes.

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

/// A connected TCP or Unix stream socket, for any runtime.
///
/// Implements `AsyncRead` and `AsyncWrite` of the futures crates, and tokio's with the feature
/// `tokio`. Closing the write side sends the end of file. One task may read while another writes.
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

/// The result of [`Stream::read`]. Bytes that were read are never discarded.
///
/// # Examples
///
/// ```
/// use release_core::net::Read;
///
/// /// Returns a complete message, if there is one.
/// fn message(read: Read) -> Option<Vec<u8>> {
///     match read {
///         Read::Data(bytes) => Some(bytes),
///         _ => None,
///     }
/// }
/// # assert_eq!(message(Read::Eof(vec![])), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Read {
    /// The requested number of bytes.
    Data(Vec<u8>),
    /// The peer closed the connection after these bytes.
    Eof(Vec<u8>),
    /// The time limit expired after these bytes.
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
    /// Creates a stream from a connected stream socket, and makes the socket non-blocking.
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot watch the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::Stream;
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let (here, _there) = UnixStream::pair()?;
    /// let stream = Stream::new(&driver.handle(), here.into())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(rt: &Rt, socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { io: rt.register(socket)?, rt: rt.clone() })
    }

    /// Creates a stream from a connection of the standard library, like [`Stream::new`].
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot watch the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    /// use release_core::net::Stream;
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let server = TcpListener::bind("127.0.0.1:0")?;
    /// let connection = TcpStream::connect(server.local_addr()?)?;
    /// let stream = Stream::from_tcp(&driver.handle(), connection)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_tcp(rt: &Rt, socket: TcpStream) -> io::Result<Self> {
        Self::new(rt, socket.into())
    }

    /// Creates a stream from a connection of the standard library, like [`Stream::new`].
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot watch the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::Stream;
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let (here, _there) = UnixStream::pair()?;
    /// let stream = Stream::from_unix(&driver.handle(), here)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_unix(rt: &Rt, socket: UnixStream) -> io::Result<Self> {
        Self::new(rt, socket.into())
    }

    /// Reads the available bytes, up to the buffer's length. Returns 0 at the end of file.
    ///
    /// Interruptions and spurious wake-ups are not errors: the call continues.
    ///
    /// # Errors
    ///
    /// Returns the errors of recv(2).
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has read nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::Stream;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (here, there) = (Stream::from_unix(&rt, here)?, Stream::from_unix(&rt, there)?);
    ///     here.write_all(b"hello").await?;
    ///     let mut buffer = [0; 100];
    ///     let count = there.read_once(&mut buffer).await?;
    ///     assert_eq!(&buffer[..count], b"hello");
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read_once(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_receive(cx, buffer)).await
    }

    /// Reads `count` bytes, and waits for them up to `limit`.
    ///
    /// Memory use grows with the bytes that arrive.
    ///
    /// # Errors
    ///
    /// Returns the errors of recv(2).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: bytes already read by a dropped call are lost. Use `limit` instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::{Read, Stream};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (here, there) = (Stream::from_unix(&rt, here)?, Stream::from_unix(&rt, there)?);
    ///     here.write_all(b"four").await?;
    ///     assert_eq!(there.read(4, None).await?, Read::Data(b"four".to_vec()));
    ///
    ///     // After the time limit, you get the bytes that have arrived.
    ///     here.write_all(b"tw").await?;
    ///     let limit = std::time::Duration::from_millis(5);
    ///     assert_eq!(there.read(4, Some(limit)).await?, Read::TimedOut(b"tw".to_vec()));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read(&self, count: usize, limit: Option<Duration>) -> io::Result<Read> {
        let deadline = limit.map(|limit| self.rt.after(limit));
        let mut data = Vec::new();
        // On the heap: otherwise the future of every reader would contain the buffer.
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
    /// Returns the errors of send(2). A disconnected peer is [`io::ErrorKind::BrokenPipe`], never a
    /// signal.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped call may have written part of the bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::{Read, Stream};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (here, there) = (Stream::from_unix(&rt, here)?, Stream::from_unix(&rt, there)?);
    ///     here.write_all(b"hello").await?;
    ///     assert_eq!(there.read(5, None).await?, Read::Data(b"hello".to_vec()));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "write")]
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                std::future::poll_fn(|cx| self.poll_send(cx, &[IoSlice::new(bytes)])).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Closes one or both sides, for this and every other holder of the socket.
    ///
    /// # Errors
    ///
    /// Returns the errors of shutdown(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::net::{Read, Stream};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (here, there) = (Stream::from_unix(&rt, here)?, Stream::from_unix(&rt, there)?);
    ///     here.write_all(b"last words").await?;
    ///     here.shutdown(std::net::Shutdown::Write)?;
    ///     assert_eq!(there.read(100, None).await?, Read::Eof(b"last words".to_vec()));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => nix::sys::socket::Shutdown::Read,
            Shutdown::Write => nix::sys::socket::Shutdown::Write,
            Shutdown::Both => nix::sys::socket::Shutdown::Both,
        };
        Ok(nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), how)?)
    }

    /// Sends the end of file.
    pub(crate) fn close(&self) -> io::Result<()> {
        match self.shutdown(Shutdown::Write) {
            // The peer disconnected first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
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
            // Never "drained": on a Unix socket, descriptors attached to the data end a read early
            // although more data is available.
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
        Poll::Ready(self.close())
    }
}
