//! Connecting with a time limit.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt};

use super::{Active, Address, Bound, Socket, Stream, Unconnected};
use crate::rt::{Direction, Progress, Rt};

/// Interval between attempts while a Unix socket's queue is full: no event reports free space.
const QUEUE_FULL: Duration = Duration::from_millis(20);

impl<A: Address> Socket<Unconnected, A> {
    /// Connects to an address within a time limit.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::TimedOut`] if the limit expires, and otherwise the errors of
    /// connect(2), such as [`io::ErrorKind::ConnectionRefused`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Socket};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address: Inet = server.local_addr()?;
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let socket = Socket::unconnected(&address)?;
    ///     let connection = socket.connect(&rt, &address, Duration::from_secs(5)).await?;
    ///     assert_eq!(connection.peer()?, address);
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn connect(
        self,
        rt: &Rt,
        address: &A,
        limit: Duration,
    ) -> io::Result<Socket<Active, A>> {
        connect(self.state.0, rt, address, limit).await
    }
}

impl<A: Address> Socket<Bound, A> {
    /// Connects from the address that the socket is bound to, within a time limit.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::TimedOut`] if the limit expires, and otherwise the errors of
    /// connect(2).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Socket};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let (here, there): (Inet, Inet) = ("127.0.0.1:0".parse()?, server.local_addr()?);
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let socket = Socket::unconnected(&here)?.bind(&here)?;
    ///     let from = socket.local()?;
    ///     let connection = socket.connect(&rt, &there, Duration::from_secs(5)).await?;
    ///     assert_eq!(connection.local()?, from);
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn connect(
        self,
        rt: &Rt,
        address: &A,
        limit: Duration,
    ) -> io::Result<Socket<Active, A>> {
        connect(self.state.0, rt, address, limit).await
    }
}

async fn connect<A: Address>(
    socket: OwnedFd,
    rt: &Rt,
    address: &A,
    limit: Duration,
) -> io::Result<Socket<Active, A>> {
    let connecting = async {
        begin(&socket, rt, address).await?;
        // Registered only now: epoll reports a hang-up for a socket that has not begun to connect.
        let stream = Stream::new(rt, socket)?;
        stream.io().run(Direction::Write, |fd| Ok((is_connected(&fd)?, Progress::More))).await?;
        Ok(Socket::in_state(Active(stream)))
    };
    rt.timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn begin<A: Address>(socket: &OwnedFd, rt: &Rt, address: &A) -> io::Result<()> {
    let system =
        address.to_system().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    loop {
        match nix::sys::socket::connect(socket.as_raw_fd(), &system) {
            // After an interruption, it continues like a connection attempt that has just begun.
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => return Ok(()),
            Err(Errno::EAGAIN) if address.family() == nix::sys::socket::AddressFamily::Unix => {
                rt.sleep(QUEUE_FULL).await;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Returns `WouldBlock` while the connection is being established.
fn is_connected(socket: &(impl AsRawFd + std::os::fd::AsFd)) -> io::Result<()> {
    match getsockopt(socket, SocketError)? {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    match getpeername::<SockaddrStorage>(socket.as_raw_fd()) {
        Err(Errno::ENOTCONN) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Err(errno.into()),
        Ok(_) => Ok(()),
    }
}
