//! `Active`: a connected socket, and the identity of its peer.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::getpeername;

use super::socket::Named;
use super::{Address, Socket, Stream, Unix};
use crate::sys::socket;

/// The state of a connected [`Socket`]. It dereferences to a [`Stream`] for reading and writing.
///
/// # Examples
///
/// ```
/// use release_core::net::{Active, Inet, Read, Socket};
///
/// /// Answers one request of four bytes.
/// async fn echo(client: Socket<Active, Inet>) -> std::io::Result<()> {
///     if let Read::Data(request) = client.read(4, None).await? {
///         client.write_all(&request).await?;
///     }
///     Ok(())
/// }
/// ```
pub struct Active(pub(super) Stream);

impl fmt::Debug for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsFd for Active {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Named for Active {}

impl<A> Deref for Socket<Active, A> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.state.0
    }
}

impl<A: Address> Socket<Active, A> {
    /// A connection that another process has accepted.
    #[cfg(feature = "http")]
    pub(crate) fn accepted(stream: Stream) -> Self {
        Self::in_state(Active(stream))
    }

    /// Returns the address of the peer. Most clients of Unix sockets are [`Unix::Unnamed`].
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::NotConnected`] if the peer has already disconnected.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Active, Inet, Socket};
    ///
    /// async fn greet(client: Socket<Active, Inet>) -> std::io::Result<()> {
    ///     let greeting = format!("hello, {}\n", client.peer()?);
    ///     client.write_all(greeting.as_bytes()).await
    /// }
    /// ```
    pub fn peer(&self) -> io::Result<A> {
        let address = getpeername::<A::System>(self.as_fd().as_raw_fd())?;
        A::from_system(&address).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns the connection without its kind of address. The result implements `AsyncRead` and
    /// `AsyncWrite` of the futures crates.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_util::AsyncWriteExt;
    /// use release_core::net::{Active, Inet, Socket};
    ///
    /// async fn farewell(client: Socket<Active, Inet>) -> std::io::Result<()> {
    ///     let mut stream = client.into_stream();
    ///     AsyncWriteExt::write_all(&mut stream, b"goodbye\n").await?;
    ///     stream.close().await
    /// }
    /// ```
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.state.0
    }
}

/// The identity of a peer, as recorded by the kernel when the connection was made.
///
/// Pids are reused, so never base a decision on the pid.
///
/// # Examples
///
/// ```
/// use release_core::net::Credentials;
///
/// fn is_root(peer: Credentials) -> bool {
///     peer.uid == 0
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// Process id of the peer.
    pub pid: i32,
    /// Effective user id of the peer.
    pub uid: u32,
    /// Effective group id of the peer.
    pub gid: u32,
}

impl Credentials {
    pub(crate) fn of_peer(socket: &impl AsFd) -> io::Result<Self> {
        let peer = socket::peer(socket)?;
        Ok(Self { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
    }
}

impl Socket<Active, Unix> {
    /// Returns the identity of the peer.
    ///
    /// # Errors
    ///
    /// Returns the errors of getsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Active, Socket, Unix};
    ///
    /// async fn serve_root(client: Socket<Active, Unix>) -> std::io::Result<()> {
    ///     if client.credentials()?.uid != 0 {
    ///         return client.write_all(b"only root may use this\n").await;
    ///     }
    ///     client.write_all(b"welcome\n").await
    /// }
    /// ```
    pub fn credentials(&self) -> io::Result<Credentials> {
        Credentials::of_peer(self)
    }
}
