//! `Active`: a connected socket, and who is at the other end.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::getpeername;

use super::{Address, Socket, Stream, Unix};
use crate::sys::socket;

/// The state of a [`Socket`] that is connected: it is read and written as the [`Stream`] that it
/// dereferences to.
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

impl<A> Deref for Socket<Active, A> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.state.0
    }
}

impl<A: Address> Socket<Active, A> {
    /// The address of the other end; most clients of Unix sockets are [`Unix::Unnamed`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] when the peer has already gone.
    pub fn peer(&self) -> io::Result<A> {
        let address = getpeername::<A::System>(self.as_fd().as_raw_fd())?;
        A::from_system(&address).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The connection without the kind of its address, with the `AsyncRead` and `AsyncWrite` of the
    /// futures crates.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.state.0
    }

    /// The connection as a descriptor that no runtime watches, as
    /// [`plain::Server`](crate::ipc::plain::Server) takes it.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        // A runtime does not give back what it watches, hence another descriptor.
        self.as_fd().try_clone_to_owned()
    }
}

/// Who is at the other end of a connection, as the kernel recorded it when they connected.
///
/// The pid may be reused: never decide anything by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The process.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Credentials {
    pub(crate) fn of_peer(socket: &impl AsFd) -> io::Result<Self> {
        let peer = socket::peer(socket)?;
        Ok(Self { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
    }
}

impl Socket<Active, Unix> {
    /// Who is at the other end.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn credentials(&self) -> io::Result<Credentials> {
        Credentials::of_peer(self)
    }
}
