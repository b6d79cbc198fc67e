//! `Passive`: accepting connections, and handling errors that must not end it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SockType as TypeOf};
use nix::sys::socket::{SockType, getsockname, getsockopt};

use super::socket::{Named, not_the_socket};
use super::{Active, Address, Bound, Socket, Stream};
use crate::Error;
use crate::log_throttle::LogThrottle;
use crate::rt::{Direction, Io, Progress, Rt, give_way};
use crate::sys::fds::set_cloexec;
use crate::sys::socket::accept;

/// Number of connections accepted before other tasks of the runtime get their turn.
const ACCEPTS_PER_TURN: u32 = 16;

/// Number of consecutive accept failures that indicates a local fault, such as a security policy
/// that forbids accepting.
const FAILURES: usize = 16;

/// Delays before the next attempt: short at first, then longer.
const WAITS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// The state of a listening [`Socket`]. Several processes may accept on the same socket.
///
/// # Examples
///
/// ```
/// use release_core::net::{Inet, Passive, Socket};
/// use release_core::rt::{Driver, local::Local};
///
/// let driver = Local::new()?;
/// let address: Inet = "127.0.0.1:0".parse()?;
/// let socket: Socket<Passive, Inet> =
///     Socket::unconnected(&address)?.bind(&address)?.listen(&driver.handle(), 128)?;
/// assert_ne!(socket.local()?.port(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Passive {
    io: Io,
    pub(super) rt: Rt,
    in_a_row: u32,
    /// Number of failed connections and waits since the last accepted connection.
    failures: usize,
    waits: usize,
    warnings: LogThrottle,
}

impl AsFd for Passive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Named for Passive {}

impl<A: Address> Socket<Bound, A> {
    /// Starts to listen. `backlog` is the maximum number of connections that wait to be accepted;
    /// the system has its own limit (`net.core.somaxconn`).
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::System`](crate::ErrorKind::System) for the errors of listen(2), or if
    /// the runtime cannot watch the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Socket};
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let address: Inet = "127.0.0.1:0".parse()?;
    /// let socket = Socket::unconnected(&address)?.bind(&address)?.listen(&driver.handle(), 128)?;
    /// println!("listening on {}", socket.local()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listen(self, rt: &Rt, backlog: u32) -> Result<Socket<Passive, A>, Error> {
        Socket::inherited(rt, self.into_listening(backlog)?)
    }
}

impl<A: Address> Socket<Passive, A> {
    /// Takes over a listening socket, opened by a master, a service manager or the standard
    /// library. It becomes non-blocking for every process that shares it, and close-on-exec in this
    /// one.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`](crate::ErrorKind::Usage) if it is not a listening stream socket
    /// of this kind of address, and [`ErrorKind::System`](crate::ErrorKind::System) if the runtime
    /// cannot watch it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use release_core::net::{Inet, Passive, Socket, Unix};
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let copy = listener.try_clone()?;
    /// assert!(Socket::<Passive, Inet>::inherited(&driver.handle(), listener).is_ok());
    /// assert!(Socket::<Passive, Unix>::inherited(&driver.handle(), copy).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn inherited(rt: &Rt, socket: impl Into<OwnedFd>) -> Result<Self, Error> {
        let socket = socket.into();
        match getsockopt(&socket, TypeOf) {
            Ok(SockType::Stream) => {}
            Ok(_) => return Err(not_the_socket::<A>("not a stream socket")),
            Err(errno) => return Err(not_the_socket::<A>("not a socket").caused_by(errno)),
        }
        let address = getsockname::<A::System>(socket.as_raw_fd());
        if !address.is_ok_and(|address| A::from_system(&address).is_some()) {
            return Err(not_the_socket::<A>("of another kind"));
        }
        if !getsockopt(&socket, AcceptConn).unwrap_or(false) {
            return Err(not_the_socket::<A>("one that does not listen"));
        }
        set_cloexec(&socket)
            .and_then(|()| Self::watch(rt, socket))
            .map_err(|error| Error::system("cannot watch a listening socket", error))
    }

    /// Takes over a socket that is known to listen, like [`Socket::inherited`].
    pub(crate) fn watch(rt: &Rt, socket: OwnedFd) -> io::Result<Self> {
        let io = rt.register(socket)?;
        let rt = rt.clone();
        Ok(Self::in_state(Passive {
            io,
            rt,
            in_a_row: 0,
            failures: 0,
            waits: 0,
            warnings: LogThrottle::default(),
        }))
    }

    /// Switches to another listening socket.
    pub(crate) fn replace(&mut self, socket: OwnedFd) -> io::Result<()> {
        *self = Self::watch(&self.state.rt, socket)?;
        Ok(())
    }

    /// Accepts the next connection.
    ///
    /// Skips connections that ended before they were accepted. If descriptors or memory run out
    /// (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`), waits before each new attempt, longer each time,
    /// up to half a second. Meanwhile, connections wait in the kernel and no processor time is
    /// wasted.
    ///
    /// # Errors
    ///
    /// Returns only errors after which no accept can succeed, such as `EINVAL` on a socket that was
    /// shut down.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has accepted nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Passive, Socket};
    ///
    /// /// Serves one client after the other.
    /// async fn serve(mut socket: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     loop {
    ///         let client = socket.accept().await?;
    ///         // A client that disconnects early does not end the server.
    ///         let _ = client.write_all(b"hello\n").await;
    ///     }
    /// }
    /// ```
    pub async fn accept(&mut self) -> io::Result<Socket<Active, A>> {
        loop {
            let socket = self.accept_descriptor().await?;
            match Stream::new(&self.state.rt, socket) {
                Ok(stream) => return Ok(Socket::in_state(Active(stream))),
                // The connection is lost, the listener is not.
                Err(error) => self.state.warn(&error, "a connection cannot be watched"),
            }
        }
    }

    /// Accepts a connection as a descriptor, for callers that watch it in another way.
    pub(crate) async fn accept_descriptor(&mut self) -> io::Result<OwnedFd> {
        self.state.accept().await
    }

    /// Accepts a connection that is already in the queue, without waiting for the runtime to know.
    pub(super) fn accept_queued(&self) -> Option<Socket<Active, A>> {
        let is_other = |accepted: &io::Result<OwnedFd>| match accepted {
            Ok(_) => true,
            Err(error) => !is_of_the_connection(errno_of(error)),
        };
        let mut attempts = (0..FAILURES).map(|_| accept(&self.state.io.as_fd()));
        let socket = attempts.find(is_other)?.ok()?;
        let stream = Stream::new(&self.state.rt, socket).ok()?;
        Some(Socket::in_state(Active(stream)))
    }
}

impl Passive {
    async fn accept(&mut self) -> io::Result<OwnedFd> {
        if self.in_a_row == ACCEPTS_PER_TURN {
            self.in_a_row = 0;
            give_way().await;
        }
        loop {
            let accepted =
                self.io.run(Direction::Read, |fd| Ok((accept(&fd)?, Progress::More))).await;
            let error = match accepted {
                Ok(socket) => {
                    self.in_a_row += 1;
                    (self.failures, self.waits) = (0, 0);
                    return Ok(socket);
                }
                Err(error) => error,
            };
            match errno_of(&error) {
                Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
                    self.wait(&error, "connections wait: they cannot be accepted now").await;
                }
                errno if is_of_the_connection(errno) => {
                    self.failures += 1;
                    if self.failures > FAILURES {
                        self.wait(&error, "all connections fail as they are accepted").await;
                    }
                }
                _ => return Err(error),
            }
        }
    }

    async fn wait(&mut self, error: &io::Error, why: &'static str) {
        self.warn(error, why);
        let wait = WAITS[self.waits.min(WAITS.len() - 1)];
        self.waits += 1;
        self.rt.sleep(wait).await;
    }

    fn warn(&mut self, error: &io::Error, what: &'static str) {
        if let Some(unsaid) = self.warnings.now(self.rt.now()) {
            log_warning!(%error, unsaid, "{what}");
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Returns whether an error of accept(2) concerns a connection that failed while it was queued.
fn is_of_the_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ECONNRESET
            | Errno::ETIMEDOUT
    )
}
