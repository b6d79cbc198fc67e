//! Conversions of sockets to the types of the standard library and of the runtimes.

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::{Active, Datagrams, Inet, Passive, Socket, Unix};

impl<S: AsFd, A> Socket<S, A> {
    /// Returns the socket as a descriptor that no runtime watches, for code that watches it in another
    /// way, such as [`plain::Server`](crate::ipc::plain::Server). It stays non-blocking.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor is left.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::fd::AsRawFd;
    /// use release_core::net::{Inet, Socket};
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let bound = Socket::unconnected(&address)?.bind(&address)?;
    /// let listener = bound.listen(&driver.handle(), 128)?;
    /// assert!(listener.into_descriptor()?.as_raw_fd() > 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        // A runtime does not give back a watched descriptor, hence a duplicate.
        self.as_fd().try_clone_to_owned()
    }
}

/// Implements a conversion by way of the descriptor.
macro_rules! convert {
    ($($(#[$doc:meta])* $state:ty, $address:ty => $target:ty, $from:expr;)*) => {$(
        convert_socket! { $(#[$doc])* Socket<$state, $address> => $target, $from; }
    )*};
}

macro_rules! convert_socket {
    ($($(#[$doc:meta])* $socket:ty => $target:ty, $from:expr;)*) => {$(
        $(#[$doc])*
        impl TryFrom<$socket> for $target {
            type Error = io::Error;

            fn try_from(socket: $socket) -> io::Result<Self> {
                $from(socket.into_descriptor()?)
            }
        }
    )*};
}

convert! {
    /// The listener stays non-blocking.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let listener: std::net::TcpListener = me.listener("http")?.try_into()?;
    ///     listener.set_nonblocking(false)?; // For every process that shares it.
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    Passive, Inet => TcpListener, |fd: OwnedFd| Ok(fd.into());
    /// The listener stays non-blocking.
    Passive, Unix => UnixListener, |fd: OwnedFd| Ok(fd.into());
    /// The connection stays non-blocking.
    Active, Inet => TcpStream, |fd: OwnedFd| Ok(fd.into());
    /// The connection stays non-blocking.
    Active, Unix => UnixStream, |fd: OwnedFd| Ok(fd.into());
}

convert_socket! {
    /// The socket stays non-blocking.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// use release_core::net::{Datagrams, Inet};
    ///
    /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let socket: std::net::UdpSocket = me.datagrams::<Inet>("dns")?.try_into()?;
    ///     socket.set_nonblocking(false)?;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    Datagrams<Inet> => UdpSocket, |fd: OwnedFd| Ok(fd.into());
    /// The socket stays non-blocking.
    Datagrams<Unix> => UnixDatagram, |fd: OwnedFd| Ok(fd.into());
}

#[cfg(feature = "async-io")]
convert_socket! {
    Datagrams<Inet> => async_io::Async<UdpSocket>,
        |fd: OwnedFd| Self::new_nonblocking(UdpSocket::from(fd));
    Datagrams<Unix> => async_io::Async<UnixDatagram>,
        |fd: OwnedFd| Self::new_nonblocking(UnixDatagram::from(fd));
}

#[cfg(feature = "async-net")]
convert_socket! {
    /// The type is `smol::net::UdpSocket`.
    Datagrams<Inet> => async_net::UdpSocket, |fd: OwnedFd| UdpSocket::from(fd).try_into();
    /// The type is `smol::net::unix::UnixDatagram`.
    Datagrams<Unix> => async_net::unix::UnixDatagram,
        |fd: OwnedFd| UnixDatagram::from(fd).try_into();
}

#[cfg(feature = "async-io")]
convert! {
    /// The listener stays non-blocking.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use async_io::Async;
    ///
    /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let listener: Async<std::net::TcpListener> = me.listener("http")?.try_into()?;
    ///     let (stream, address) = listener.accept().await?;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    Passive, Inet => async_io::Async<TcpListener>,
        |fd: OwnedFd| Self::new_nonblocking(TcpListener::from(fd));
    Passive, Unix => async_io::Async<UnixListener>,
        |fd: OwnedFd| Self::new_nonblocking(UnixListener::from(fd));
    Active, Inet => async_io::Async<TcpStream>,
        |fd: OwnedFd| Self::new_nonblocking(TcpStream::from(fd));
    Active, Unix => async_io::Async<UnixStream>,
        |fd: OwnedFd| Self::new_nonblocking(UnixStream::from(fd));
}

#[cfg(feature = "async-net")]
convert! {
    /// The type is `smol::net::TcpListener`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let listener: async_net::TcpListener = me.listener("http")?.try_into()?;
    ///     let (stream, address) = listener.accept().await?;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    Passive, Inet => async_net::TcpListener, |fd: OwnedFd| TcpListener::from(fd).try_into();
    /// The type is `smol::net::unix::UnixListener`.
    Passive, Unix => async_net::unix::UnixListener,
        |fd: OwnedFd| UnixListener::from(fd).try_into();
    /// The type is `smol::net::TcpStream`.
    Active, Inet => async_net::TcpStream, |fd: OwnedFd| TcpStream::from(fd).try_into();
    /// The type is `smol::net::unix::UnixStream`.
    Active, Unix => async_net::unix::UnixStream, |fd: OwnedFd| UnixStream::from(fd).try_into();
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::runtime::Handle;

    use super::*;
    use crate::net::Stream;

    convert! {
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the listener.
        ///
        /// # Examples
        ///
        /// ```
        /// # use release_core::Me;
        /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
        ///     let listener: tokio::net::TcpListener = me.listener("http")?.try_into()?;
        ///     let (stream, address) = listener.accept().await?;
        ///     Ok(())
        /// }
        /// # let _ = worker;
        /// ```
        Passive, Inet => tokio::net::TcpListener,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the listener.
        Passive, Unix => tokio::net::UnixListener,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the connection.
        Active, Inet => tokio::net::TcpStream,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the connection.
        Active, Unix => tokio::net::UnixStream,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
    }

    convert_socket! {
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the socket.
        ///
        /// # Examples
        ///
        /// ```
        /// # use release_core::Me;
        /// use release_core::net::Inet;
        ///
        /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error>> {
        ///     let socket: tokio::net::UdpSocket = me.datagrams::<Inet>("dns")?.try_into()?;
        ///     let (count, from) = socket.recv_from(&mut [0; 512]).await?;
        ///     Ok(())
        /// }
        /// # let _ = worker;
        /// ```
        Datagrams<Inet> => tokio::net::UdpSocket,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
        /// # Errors
        ///
        /// Returns an error outside tokio's context, where nothing could watch the socket.
        Datagrams<Unix> => tokio::net::UnixDatagram,
            |fd: OwnedFd| in_context(fd, |fd| Self::from_std(fd.into()));
    }

    /// Tokio's `from_std` panics outside its context.
    fn in_context<T>(fd: OwnedFd, from: impl FnOnce(OwnedFd) -> io::Result<T>) -> io::Result<T> {
        Handle::try_current().map_err(io::Error::other)?;
        from(fd)
    }

    /// Works on every runtime, also outside tokio's context.
    impl AsyncRead for Stream {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = ready!(self.poll_receive(cx, buffer.initialize_unfilled()))?;
            buffer.advance(count);
            Poll::Ready(Ok(()))
        }
    }

    /// Works on every runtime, also outside tokio's context.
    impl AsyncWrite for Stream {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_send(cx, &[io::IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            parts: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_send(cx, parts)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.close())
        }
    }
}
