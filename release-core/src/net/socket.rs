//! `Socket`: the state and the kind of address in the type, from nothing to listening.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::{
    Ipv6V6Only, KeepAlive, RcvBuf, ReuseAddr, ReusePort, SndBuf, TcpKeepIdle, TcpNoDelay,
};
use nix::sys::socket::{
    Backlog, SetSockOpt, SockFlag, SockType, getsockname, listen, setsockopt, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::{Active, Address, Inet, Passive, Unix};
use crate::rt::Rt;
use crate::{Error, ErrorKind};

/// A stream socket. `S` is its state: [`Unconnected`], [`Bound`], [`Passive`] or
/// [`Active`]; `A` the kind of its address: [`Unix`] or [`Inet`].
///
/// The [module](super) shows all states at work, and what does not compile. Every socket is closed
/// when it is dropped, and no program that this process runs has it.
#[derive(Debug)]
pub struct Socket<S, A> {
    pub(super) state: S,
    kind: PhantomData<A>,
}

/// The state of a [`Socket`] that has no address and no peer: options are set now.
#[derive(Debug)]
pub struct Unconnected(pub(super) OwnedFd);

/// The state of a [`Socket`] that has an address: it can listen, or connect from there.
#[derive(Debug)]
pub struct Bound(pub(super) OwnedFd);

/// States in which a socket has an address of its own.
#[allow(unnameable_types)]
pub trait Named: AsFd {}

impl Named for Bound {}
impl Named for Passive {}
impl Named for Active {}

impl AsFd for Unconnected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<S: AsFd, A> AsFd for Socket<S, A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }
}

impl<S, A> Socket<S, A> {
    pub(super) fn in_state(state: S) -> Self {
        Self { state, kind: PhantomData }
    }
}

impl<S: Named, A: Address> Socket<S, A> {
    /// The socket's own address: after a bind to port 0, the port that the system chose.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local(&self) -> std::io::Result<A> {
        local(&self.state)
    }
}

/// The own address of a socket.
pub(crate) fn local<A: Address>(socket: &impl AsFd) -> std::io::Result<A> {
    let address = getsockname::<A::System>(socket.as_fd().as_raw_fd())?;
    A::from_system(&address).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

impl<A: Address> Socket<Unconnected, A> {
    /// A new socket, of the family that `address` has; it may then be bound to it or to another
    /// one of the family.
    ///
    /// TCP sockets begin with [`reuse_address`](Socket::reuse_address) on, Unix sockets with
    /// [`mode`](Socket::mode) 0600.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] for what socket(2) says: no descriptors, or a family that the system
    /// does not have.
    pub fn unconnected(address: &A) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket(address.family(), SockType::Stream, flags, None)
            .and_then(|socket| A::prepare(&socket).map(|()| socket));
        let socket = made
            .map_err(|errno| Error::system(format!("cannot make a socket for {address}"), errno))?;
        Ok(Self::in_state(Unconnected(socket)))
    }

    /// How many bytes may wait to be sent, roughly: the system has its own limits. Accepted
    /// connections have the same.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn send_buffer(self, bytes: usize) -> Result<Self, Error> {
        self.set(SndBuf, &bytes, "the send buffer")
    }

    /// How many bytes may wait to be read, roughly: the system has its own limits. Accepted
    /// connections have the same.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn receive_buffer(self, bytes: usize) -> Result<Self, Error> {
        self.set(RcvBuf, &bytes, "the receive buffer")
    }

    /// Gives the socket its address.
    ///
    /// At a path, a socket that nobody answers on (left by a process that was killed) is replaced.
    /// Nothing else is ever touched there. The file stays when the socket is dropped, for the next
    /// bind to replace.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::AlreadyRunning`] when somebody answers on the path;
    /// * [`ErrorKind::Usage`] when something that is not a socket is there, or the name is too long
    ///   or empty;
    /// * [`ErrorKind::System`] for what bind(2) says, such as an address in use or a port that only
    ///   root may have.
    pub fn bind(self, address: &A) -> Result<Socket<Bound, A>, Error> {
        address.bind(&self.state.0, || Ok(()))?;
        Ok(Socket::in_state(Bound(self.state.0)))
    }

    /// Binds and listens at once. Between the two, another process that wants the same path may
    /// take the socket for a dead one: here it cannot.
    pub(crate) fn bind_listening(self, address: &A, backlog: u32) -> Result<OwnedFd, Error> {
        address.bind(&self.state.0, || begin_to_listen(&self.state.0, backlog))?;
        Ok(self.state.0)
    }

    fn set<O: SetSockOpt>(self, option: O, value: &O::Val, what: &str) -> Result<Self, Error> {
        setsockopt(&self.state.0, option, value)
            .map_err(|errno| Error::system(format!("cannot set {what} of a socket"), errno))?;
        Ok(self)
    }
}

impl Socket<Unconnected, Inet> {
    /// Whether the address may be had while connections of its last holder still linger; on unless
    /// switched off.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn reuse_address(self, on: bool) -> Result<Self, Error> {
        self.set(ReuseAddr, &on, "SO_REUSEADDR")
    }

    /// Whether other sockets of this user may have the same address; the system then spreads
    /// connections over them.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn reuse_port(self, on: bool) -> Result<Self, Error> {
        self.set(ReusePort, &on, "SO_REUSEPORT")
    }

    /// Whether a socket of IP version 6 leaves version 4 to others, who may then have the same
    /// port. What happens otherwise is a setting of the system.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2), such as for a socket of IP version 4.
    pub fn only_v6(self, on: bool) -> Result<Self, Error> {
        self.set(Ipv6V6Only, &on, "IPV6_V6ONLY")
    }

    /// Whether small writes are sent at once instead of being gathered. Accepted connections have
    /// the same.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn no_delay(self, on: bool) -> Result<Self, Error> {
        self.set(TcpNoDelay, &on, "TCP_NODELAY")
    }

    /// Asks a peer that has been silent for `idle` (whole seconds, at least 1) whether it is still
    /// there. Accepted connections do the same.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2); Linux allows up to 32767 seconds.
    pub fn keep_alive(self, idle: Duration) -> Result<Self, Error> {
        let seconds = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1);
        self.set(KeepAlive, &true, "SO_KEEPALIVE")?.set(TcpKeepIdle, &seconds, "TCP_KEEPIDLE")
    }
}

impl Socket<Unconnected, Unix> {
    /// The mode of the socket file that [`bind`](Socket::bind) makes, from its first moment on and
    /// whatever the umask. To connect is to write.
    ///
    /// # Errors
    ///
    /// Those of fchmod(2).
    pub fn mode(self, mode: u32) -> Result<Self, Error> {
        fchmod(&self.state.0, Mode::from_bits_truncate(mode))
            .map_err(|errno| Error::system("cannot set the mode of a socket", errno))?;
        Ok(self)
    }
}

impl<A: Address> Socket<Bound, A> {
    /// Listens. `backlog` is how many connections may wait to be accepted; the system has its own
    /// limit (`net.core.somaxconn`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] for what listen(2) says, or when the runtime cannot watch the socket.
    pub fn listen(self, rt: &Rt, backlog: u32) -> Result<Socket<Passive, A>, Error> {
        Socket::inherited(rt, self.into_listening(backlog)?)
    }

    /// Listens without a runtime: the descriptor is for [`Workers::listener`], or for
    /// [`Socket::inherited`] once there is a runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] for what listen(2) says.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "[::1]:0".parse()?;
    /// let descriptor = Socket::unconnected(&address)?.bind(&address)?.into_listening(128)?;
    /// # let _ = descriptor;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Workers::listener`]: crate::Workers::listener
    pub fn into_listening(self, backlog: u32) -> Result<OwnedFd, Error> {
        begin_to_listen(&self.state.0, backlog)?;
        Ok(self.state.0)
    }
}

fn begin_to_listen(socket: &OwnedFd, backlog: u32) -> Result<(), Error> {
    let backlog = i32::try_from(backlog).ok().and_then(|backlog| Backlog::new(backlog).ok());
    listen(socket, backlog.unwrap_or(Backlog::MAXCONN))
        .map_err(|errno| Error::system("cannot listen", errno))
}

/// An error about a descriptor that is not the socket it should be.
#[cold]
pub(super) fn not_the_socket<A: Address>(found: &str) -> Error {
    let message = format!("a listening {} socket was expected, but this is {found}", A::NAME);
    Error::new(ErrorKind::Usage, message)
}
