//! `Datagrams`: a socket without connections, on any runtime.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::SockType as TypeOf;
use nix::sys::socket::{MsgFlags, SockType, getsockname, getsockopt, recvfrom, sendto};

use super::{Address, Inet, local};
use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::fds::{set_cloexec, set_nonblocking};
use crate::sys::socket::is_writable;
use crate::{Error, ErrorKind};

/// A socket for datagrams: UDP, or Unix with [`Unix`](super::Unix) as `A`. A worker gets it with
/// [`Me::datagrams`](crate::Me::datagrams).
///
/// `try_into` converts it to a socket of the standard library, of tokio, async-io or smol, for what
/// those can do beyond this type.
///
/// At most one task at a time may receive, and one send.
///
/// # Examples
///
/// ```
/// use std::net::UdpSocket;
/// use release_core::net::Datagrams;
/// use release_core::rt::{Driver, local::Local, run};
///
/// let driver = Local::new()?;
/// let server: Datagrams =
///     Datagrams::inherited(&driver.handle(), UdpSocket::bind("127.0.0.1:0")?)?;
/// let client = UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"ping", server.local()?)?;
/// run(&driver, async {
///     let mut buffer = [0; 512];
///     let (count, from) = server.recv_from(&mut buffer).await?;
///     server.send_to(&buffer[..count], &from).await
/// })?;
/// assert_eq!(client.recv(&mut [0; 512])?, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Datagrams<A = Inet> {
    io: Io,
    rt: Rt,
    kind: PhantomData<A>,
}

/// Intervals of the attempts while the queue of a receiver is full.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

impl<A> AsFd for Datagrams<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl<A> Datagrams<A> {
    /// Returns the socket as a descriptor that no runtime watches. It stays non-blocking.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor is left.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use release_core::net::Datagrams;
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let socket: Datagrams =
    ///     Datagrams::inherited(&driver.handle(), UdpSocket::bind("127.0.0.1:0")?)?;
    /// let standard = UdpSocket::from(socket.into_descriptor()?);
    /// # let _ = standard;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        // A runtime does not give back a watched descriptor, hence a duplicate.
        self.as_fd().try_clone_to_owned()
    }
}

impl<A: Address> Datagrams<A> {
    /// Takes over a socket for datagrams that has an address. It becomes non-blocking for every
    /// process that shares it, and close-on-exec in this one.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`] if it is not a socket for datagrams with this kind of address,
    /// and [`ErrorKind::System`] if the runtime cannot watch it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use release_core::net::{Datagrams, Inet, Unix};
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let copy = socket.try_clone()?;
    /// assert!(Datagrams::<Inet>::inherited(&driver.handle(), socket).is_ok());
    /// assert!(Datagrams::<Unix>::inherited(&driver.handle(), copy).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn inherited(rt: &Rt, socket: impl Into<OwnedFd>) -> Result<Self, Error> {
        let socket = socket.into();
        let refuse = |found: &str| {
            let message = format!("a socket for datagrams was expected, but this is {found}");
            Error::new(ErrorKind::Usage, message)
        };
        match getsockopt(&socket, TypeOf) {
            Ok(SockType::Datagram) => {}
            Ok(_) => return Err(refuse("one for connections")),
            Err(errno) => return Err(refuse("not a socket").caused_by(errno)),
        }
        let address = getsockname::<A::System>(socket.as_raw_fd());
        if !address.is_ok_and(|address| A::from_system(&address).is_some()) {
            return Err(refuse("one with another kind of address"));
        }
        let io = set_cloexec(&socket)
            .and_then(|()| set_nonblocking(&socket))
            .and_then(|()| rt.register(socket))
            .map_err(|error| Error::system("cannot watch a socket for datagrams", error))?;
        Ok(Self { io, rt: rt.clone(), kind: PhantomData })
    }

    /// Receives a datagram. Returns its length and the address of the sender. A part that does not
    /// fit into `buffer` is lost.
    ///
    /// # Errors
    ///
    /// Returns the errors of recvfrom(2).
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has received nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use release_core::net::Datagrams;
    ///
    /// /// Sends each datagram back.
    /// async fn echo(socket: Datagrams) -> io::Result<()> {
    ///     let mut buffer = [0; 2048];
    ///     loop {
    ///         let (count, from) = socket.recv_from(&mut buffer).await?;
    ///         socket.send_to(&buffer[..count], &from).await?;
    ///     }
    /// }
    /// # let _ = echo;
    /// ```
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, A)> {
        let receive = |socket: BorrowedFd<'_>| {
            let received = recvfrom::<A::System>(socket.as_raw_fd(), buffer)?;
            Ok((received, Progress::More))
        };
        let (count, from) = self.io.run(Direction::Read, receive).await?;
        let from = from.and_then(|from| A::from_system(&from)).or_else(A::unnamed);
        Ok((count, from.ok_or(io::ErrorKind::InvalidData)?))
    }

    /// Sends a datagram to an address. Waits while the socket's send buffer is full, or the queue of a
    /// Unix socket at that address.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendto(2), such as `EMSGSIZE` for a datagram that is too long. An error
    /// concerns this datagram: a server should go on.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has sent nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use release_core::net::{Datagrams, Unix};
    ///
    /// async fn log(socket: &Datagrams<Unix>, line: &str) -> io::Result<()> {
    ///     socket.send_to(line.as_bytes(), &Unix::path("/dev/log")).await
    /// }
    /// # let _ = log;
    /// ```
    pub async fn send_to(&self, bytes: &[u8], address: &A) -> io::Result<()> {
        let address = address.to_system().map_err(io::Error::other)?;
        let send = |socket: BorrowedFd<'_>| {
            match sendto(socket.as_raw_fd(), bytes, &address, MsgFlags::MSG_NOSIGNAL) {
                // The queue of the receiver is full: the kernel does not tell when it has room.
                Err(Errno::EAGAIN) if is_writable(&socket) => Ok((false, Progress::More)),
                sent => sent.map(|_| (true, Progress::More)).map_err(io::Error::from),
            }
        };
        let mut pause = FIRST_PAUSE;
        while !self.io.run(Direction::Write, send).await? {
            self.rt.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// Returns the socket's own address.
    ///
    /// # Errors
    ///
    /// Returns the errors of getsockname(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use release_core::net::Datagrams;
    /// use release_core::rt::{Driver, local::Local};
    ///
    /// let driver = Local::new()?;
    /// let socket: Datagrams =
    ///     Datagrams::inherited(&driver.handle(), UdpSocket::bind("127.0.0.1:0")?)?;
    /// assert_ne!(socket.local()?.port(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local(&self) -> io::Result<A> {
        local(self)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::net::Unix;
    use crate::rt::local::Local;
    use crate::rt::{Driver, give_way, run};
    use crate::sys::socket::is_readable;

    #[test]
    fn a_queue_full_of_datagrams_of_others_makes_a_sender_wait_until_there_is_room() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let receiver = UnixDatagram::bind(path("receiver")).unwrap();
        // One sender may have no room before the queue is full.
        let fill = || {
            let other = UnixDatagram::unbound().unwrap();
            other.set_nonblocking(true).unwrap();
            let sent = || other.send_to(b"other", path("receiver")).ok();
            std::iter::from_fn(sent).count() > 0
        };
        while fill() {}
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let sender = UnixDatagram::bind(path("sender")).unwrap();
        let sender = Datagrams::<Unix>::inherited(&rt, sender).unwrap();
        let address = Unix::path(path("receiver"));
        run(&driver, async {
            let sending = rt.spawn(async move { sender.send_to(b"its", &address).await });
            for _ in 0..50 {
                give_way().await;
            }
            let mut buffer = [0; 16];
            // None of the sender's own is among them: its socket has had room all the time.
            while is_readable(&receiver) {
                assert_eq!(receiver.recv(&mut buffer).unwrap(), b"other".len());
            }
            rt.timeout(Duration::from_secs(60), sending).await.expect("in time").unwrap();
            assert_eq!(receiver.recv(&mut buffer).unwrap(), b"its".len());
        });
    }
}
