//! `Socket`: carries its state, from unconnected to listening, and its kind of address in its type.

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

use super::{Address, Inet, Unix};
use crate::{Error, ErrorKind};

/// A stream socket. `S` is its state: [`Unconnected`], [`Bound`],
/// [`Passive`](super::Passive) or [`Active`](super::Active); `A` is its kind of address: [`Unix`] or
/// [`Inet`].
///
/// The [module](super) shows all states in use, and the misuses that do not compile. A socket is
/// closed when it is dropped, and is never passed on to programs that this process runs.
///
/// # Examples
///
/// ```
/// use release_core::net::{Bound, Inet, Socket, Unconnected};
///
/// let address: Inet = "127.0.0.1:0".parse()?;
/// let socket: Socket<Unconnected, Inet> = Socket::unconnected(&address)?;
/// let socket: Socket<Bound, Inet> = socket.bind(&address)?;
/// assert_ne!(socket.local()?.port(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Socket<S, A> {
    pub(super) state: S,
    kind: PhantomData<A>,
}

/// The state of a [`Socket`] without address and peer. Set options in this state.
///
/// # Examples
///
/// ```
/// use release_core::net::{Inet, Socket};
///
/// let address: Inet = "127.0.0.1:0".parse()?;
/// let socket = Socket::unconnected(&address)?.no_delay(true)?.send_buffer(64 * 1024)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Unconnected(pub(super) OwnedFd);

/// The state of a [`Socket`] with an address: it can listen, or connect from that address.
///
/// # Examples
///
/// ```
/// use release_core::net::{Inet, Socket};
///
/// let address: Inet = "127.0.0.1:0".parse()?;
/// let socket = Socket::unconnected(&address)?.bind(&address)?;
/// println!("bound to {}", socket.local()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bound(pub(super) OwnedFd);

/// States in which a socket has its own address.
#[allow(unnameable_types)]
pub trait Named: AsFd {}

impl Named for Bound {}

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
    /// Returns the socket's own address. After a bind to port 0, it has the port chosen by the
    /// system.
    ///
    /// # Errors
    ///
    /// Returns the errors of getsockname(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.bind(&address)?;
    /// assert_eq!(socket.local()?.ip(), address.ip());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local(&self) -> std::io::Result<A> {
        local(&self.state)
    }
}

/// Returns a socket's own address.
pub(crate) fn local<A: Address>(socket: &impl AsFd) -> std::io::Result<A> {
    let address = getsockname::<A::System>(socket.as_fd().as_raw_fd())?;
    A::from_system(&address).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

impl<A: Address> Socket<Unconnected, A> {
    /// Creates a socket of the address family of `address`. You may bind it to `address` or to
    /// another address of that family.
    ///
    /// TCP sockets start with [`reuse_address`](Socket::reuse_address) on, Unix sockets with
    /// [`mode`](Socket::mode) 0600.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::System`] for the errors of socket(2): no descriptors left, or a family
    /// that the system does not support.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unconnected(address: &A) -> Result<Self, Error> {
        Self::of_type(address, SockType::Stream)
    }

    /// Creates a socket of another type.
    pub(crate) fn of_type(address: &A, kind: SockType) -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket(address.family(), kind, flags, None)
            .and_then(|socket| A::prepare(&socket).map(|()| socket));
        let socket = made
            .map_err(|errno| Error::system(format!("cannot make a socket for {address}"), errno))?;
        Ok(Self::in_state(Unconnected(socket)))
    }

    /// Sets the size of the send buffer in bytes. This is approximate: the system has its own
    /// limits. Accepted connections inherit it.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.send_buffer(256 * 1024)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_buffer(self, bytes: usize) -> Result<Self, Error> {
        self.set(SndBuf, &bytes, "the send buffer")
    }

    /// Sets the size of the receive buffer in bytes. This is approximate: the system has its own
    /// limits. Accepted connections inherit it.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.receive_buffer(256 * 1024)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receive_buffer(self, bytes: usize) -> Result<Self, Error> {
        self.set(RcvBuf, &bytes, "the receive buffer")
    }

    /// Binds the socket to an address.
    ///
    /// A dead socket at the path (no process answers on it, as after a kill) is replaced. No other
    /// file is ever touched. The file remains when the socket is dropped, and the next bind
    /// replaces it.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::AlreadyRunning`] if a process answers on the path;
    /// * [`ErrorKind::Usage`] if there is a file other than a socket at the path, or if the name is
    ///   too long or empty;
    /// * [`ErrorKind::System`] for the errors of bind(2), such as an address in use or a port
    ///   reserved for root.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ErrorKind;
    /// use release_core::net::{Socket, Unix};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.sock");
    /// let address = Unix::path(&path);
    /// let listening = Socket::unconnected(&address)?.bind(&address)?.into_listening(128)?;
    ///
    /// // While a process answers on the path, no other can take it.
    /// let error = Socket::unconnected(&address)?.bind(&address).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::AlreadyRunning);
    /// # drop(listening);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bind(self, address: &A) -> Result<Socket<Bound, A>, Error> {
        address.bind(&self.state.0, || Ok(()))?;
        Ok(Socket::in_state(Bound(self.state.0)))
    }

    /// Binds and listens in one step. Between separate steps, another process that wants the same
    /// path may mistake the socket for a dead one.
    pub(crate) fn bind_listening(self, address: &A, backlog: u32) -> Result<OwnedFd, Error> {
        address.bind(&self.state.0, || begin_to_listen(&self.state.0, backlog))?;
        Ok(self.state.0)
    }

    /// Binds a socket for datagrams, which does not listen.
    pub(crate) fn bind_only(self, address: &A) -> Result<OwnedFd, Error> {
        address.bind(&self.state.0, || Ok(()))?;
        Ok(self.state.0)
    }

    fn set<O: SetSockOpt>(self, option: O, value: &O::Val, what: &str) -> Result<Self, Error> {
        setsockopt(&self.state.0, option, value)
            .map_err(|errno| Error::system(format!("cannot set {what} of a socket"), errno))?;
        Ok(self)
    }
}

impl Socket<Unconnected, Inet> {
    /// Sets whether the address can be bound while connections of its previous owner still linger.
    /// On by default.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.reuse_address(false)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reuse_address(self, on: bool) -> Result<Self, Error> {
        self.set(ReuseAddr, &on, "SO_REUSEADDR")
    }

    /// Sets whether other sockets of this user may bind the same address. The system then
    /// distributes connections among them.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let first = Socket::unconnected(&address)?.reuse_port(true)?.bind(&address)?;
    /// let same = first.local()?;
    /// let second = Socket::unconnected(&same)?.reuse_port(true)?.bind(&same)?;
    /// assert_eq!(second.local()?, same);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reuse_port(self, on: bool) -> Result<Self, Error> {
        self.set(ReusePort, &on, "SO_REUSEPORT")
    }

    /// Sets whether an IP version 6 socket leaves version 4 to other sockets, which may then use
    /// the same port. The default is a system setting.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2), for example for a socket of IP version 4.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "[::]:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.only_v6(true)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn only_v6(self, on: bool) -> Result<Self, Error> {
        self.set(Ipv6V6Only, &on, "IPV6_V6ONLY")
    }

    /// Sets whether small writes are sent immediately instead of being gathered. Accepted
    /// connections inherit it.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.no_delay(true)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn no_delay(self, on: bool) -> Result<Self, Error> {
        self.set(TcpNoDelay, &on, "TCP_NODELAY")
    }

    /// Enables keep-alive probes to a peer that has been silent for `idle` (whole seconds, at least
    /// 1). Accepted connections inherit it.
    ///
    /// # Errors
    ///
    /// Returns the errors of setsockopt(2). Linux allows up to 32767 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.keep_alive(Duration::from_secs(60))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_alive(self, idle: Duration) -> Result<Self, Error> {
        let seconds = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1);
        self.set(KeepAlive, &true, "SO_KEEPALIVE")?.set(TcpKeepIdle, &seconds, "TCP_KEEPIDLE")
    }
}

impl Socket<Unconnected, Unix> {
    /// Sets the mode of the socket file that [`bind`](Socket::bind) creates. The file has it from
    /// the start, regardless of the umask. Connecting requires write permission.
    ///
    /// # Errors
    ///
    /// Returns the errors of fchmod(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use release_core::net::{Socket, Unix};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.sock");
    /// let address = Unix::path(&path);
    /// let socket = Socket::unconnected(&address)?.mode(0o666)?.bind(&address)?;
    /// assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o666);
    /// # drop(socket);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mode(self, mode: u32) -> Result<Self, Error> {
        fchmod(&self.state.0, Mode::from_bits_truncate(mode))
            .map_err(|errno| Error::system("cannot set the mode of a socket", errno))?;
        Ok(self)
    }
}

impl<A: Address> Socket<Bound, A> {
    /// Starts to listen without a runtime. Pass the descriptor to [`Workers::listener`], or to
    /// [`Socket::inherited`] once you have a runtime.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::System`] for the errors of listen(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    ///
    /// let address: Inet = "[::1]:0".parse()?;
    /// let descriptor = Socket::unconnected(&address)?.bind(&address)?.into_listening(128)?;
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

/// Creates the error for a descriptor that is not the expected socket.
#[cold]
pub(super) fn not_the_socket<A: Address>(found: &str) -> Error {
    let message = format!("a listening {} socket was expected, but this is {found}", A::NAME);
    Error::new(ErrorKind::Usage, message)
}
