//! `Passive`: accepting, with the errors that must not end it taken care of.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SockType as TypeOf};
use nix::sys::socket::{SockType, getsockname, getsockopt};

use super::socket::not_the_socket;
use super::{AcceptLoop, Active, Address, Socket, Stream};
use crate::Error;
use crate::log_throttle::LogThrottle;
use crate::rt::{Direction, Io, Progress, Rt, give_way};
use crate::sys::fds::set_cloexec;
use crate::sys::socket::accept;

/// How many connections are accepted before others of the runtime have their turn.
const ACCEPTS_PER_TURN: u32 = 16;

/// How many connections in a row may fail as they are accepted before that looks like a fault of
/// this side, such as a security policy that forbids to accept.
const FAILURES: usize = 16;

/// How long to wait before another try: short at first, then longer.
const WAITS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// The state of a [`Socket`] that listens. Several processes may accept on the same one.
#[derive(Debug)]
pub struct Passive {
    io: Io,
    rt: Rt,
    in_a_row: u32,
    /// Connections that failed, and waits, since the last that was accepted.
    failures: usize,
    waits: usize,
    warnings: LogThrottle,
}

impl AsFd for Passive {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl<A: Address> Socket<Passive, A> {
    /// Takes over a socket that listens already: one that a master or a service manager opened, or
    /// a listener of the standard library. It is made non-blocking for all who share it, and
    /// close-on-exec here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it is not a stream socket of this kind of
    /// address that listens; [`ErrorKind::System`](crate::ErrorKind::System) when the runtime
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

    /// [`Socket::inherited`] for what is known to listen.
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

    /// Accepts on another socket from now on.
    pub(crate) fn replace(&mut self, socket: OwnedFd) -> io::Result<()> {
        *self = Self::watch(&self.state.rt, socket)?;
        Ok(())
    }

    /// The next connection.
    ///
    /// A connection that ended before it was accepted is passed over. When descriptors or memory
    /// are short (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`) it waits, longer each time up to half a
    /// second, and goes on: connections wait in the kernel meanwhile, and no processor time is
    /// burnt.
    ///
    /// # Errors
    ///
    /// Only those after which no accept can succeed, such as `EINVAL` on a socket that was shut
    /// down.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has accepted nothing.
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

    /// [`Socket::accept`] for those who watch the connection in another way.
    pub(crate) async fn accept_descriptor(&mut self) -> io::Result<OwnedFd> {
        self.state.accept().await
    }

    /// Accepts connections and gives each to a task of its own: see [`AcceptLoop`].
    #[must_use]
    pub fn accept_loop(self) -> AcceptLoop<A> {
        let rt = self.state.rt.clone();
        AcceptLoop::new(rt, self)
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
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
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
            tracing::warn!(%error, unsaid, "{what}");
        }
    }
}

/// Errors that accept(2) reports of a connection that failed while it waited.
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
