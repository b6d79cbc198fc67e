//! Sockets: the calls that give a new descriptor, and who is at the other end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PeerCredentials, SndBuf};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, accept4, getsockopt, setsockopt, socketpair,
};

/// Accepts a connection, non-blocking and close-on-exec.
pub(crate) fn accept(listener: &(impl AsRawFd + AsFd)) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_raw_fd(), flags) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(number) => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        // A TCP socket that somebody has shut down says `EINVAL`. A Unix socket says that it would
        // block, and is ready all the time.
        Err(Errno::EAGAIN) if is_hung_up(listener) => Err(Errno::EINVAL.into()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_hung_up(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// How much a socket between master and worker may hold in each direction, if the system lets it:
/// a large message is then handed over in fewer turns. Memory is only used while data waits.
const SEND_BUFFER: usize = 1024 * 1024;

/// Two connected Unix stream sockets, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    setsockopt(&one, SndBuf, &SEND_BUFFER)?;
    setsockopt(&other, SndBuf, &SEND_BUFFER)?;
    Ok((one, other))
}

/// Who connected: the identity at the time of the connection, as the kernel recorded it.
pub(crate) fn peer(socket: &impl AsFd) -> io::Result<nix::sys::socket::UnixCredentials> {
    Ok(getsockopt(socket, PeerCredentials)?)
}
