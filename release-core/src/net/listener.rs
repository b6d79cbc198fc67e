//! `Listener`: accepting, with the errors that must not end an accept loop taken care of.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::Stream;
use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::socket::accept;

/// How long to wait for descriptors when there are none left: short at first, then longer.
const SHORT_OF_DESCRIPTORS: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// A listening TCP or Unix socket. Several processes may accept on the same one (row P7).
#[derive(Debug)]
pub struct Listener {
    io: Io,
    rt: Rt,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Listener {
    /// Watches a listening socket, which is made non-blocking for all who share it.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn new(rt: &Rt, socket: impl Into<OwnedFd>) -> io::Result<Self> {
        Ok(Self { io: rt.register(socket.into())?, rt: rt.clone() })
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
    /// Only those after which no accept can succeed, such as `EINVAL` on a socket that does not
    /// listen.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has accepted nothing.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let socket = self.accept_socket().await?;
            match Stream::new(&self.rt, socket) {
                Ok(stream) => return Ok(stream),
                // The connection is lost, the listener is not.
                Err(error) => tracing::warn!(%error, "a connection cannot be watched"),
            }
        }
    }

    pub(crate) async fn accept_socket(&self) -> io::Result<OwnedFd> {
        let mut waits = SHORT_OF_DESCRIPTORS.iter();
        let mut wait = SHORT_OF_DESCRIPTORS[0];
        loop {
            let accepted =
                self.io.run(Direction::Read, |fd| Ok((accept(&fd)?, Progress::More))).await;
            match accepted
                .map_err(|error| (Errno::from_raw(error.raw_os_error().unwrap_or(0)), error))
            {
                Ok(socket) => return Ok(socket),
                Err((Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM, error)) => {
                    if wait == SHORT_OF_DESCRIPTORS[0] {
                        tracing::warn!(%error, "connections wait: they cannot be accepted now");
                    }
                    wait = waits.next().copied().unwrap_or(wait);
                    self.rt.sleep(wait).await;
                }
                Err((errno, _)) if is_of_the_connection(errno) => {}
                Err((_, error)) => return Err(error),
            }
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
    )
}
