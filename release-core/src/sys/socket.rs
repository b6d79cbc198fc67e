//! Sockets: calls that return a new descriptor, and the identity of the peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{AcceptConn, PeerCredentials, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, accept4, bind, getsockname, getsockopt,
    setsockopt, socketpair, sockopt,
};

/// Accepts a connection, non-blocking and close-on-exec.
pub(crate) fn accept(listener: &(impl AsRawFd + AsFd)) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_raw_fd(), flags) {
        // SAFETY: the kernel has just created this descriptor for this process.
        Ok(number) => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        // A TCP socket after a shutdown returns `EINVAL`. A Unix socket reports that it would
        // block, and is always ready.
        Err(Errno::EAGAIN) if is_hung_up(listener) => Err(Errno::EINVAL.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns whether a socket was shut down, by any of its holders.
pub(crate) fn is_hung_up(socket: &impl AsFd) -> bool {
    let shut_down = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut watched = [PollFd::new(socket.as_fd(), shut_down)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Returns whether a socket still listens: a shutdown(2) by any holder ends that for all holders.
pub(crate) fn is_listening(socket: &impl AsFd) -> bool {
    getsockopt(socket, AcceptConn).unwrap_or(false) && !is_hung_up(socket)
}

/// Returns the number of connections that wait in a listening TCP socket, and its maximum.
pub(crate) fn accept_queue(socket: &impl AsFd) -> Option<(u32, u32)> {
    if !getsockopt(socket, AcceptConn).unwrap_or(false) {
        return None;
    }
    // SAFETY: integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes into `info`, which is as long.
    let result = unsafe {
        let place = (&raw mut info).cast();
        libc::getsockopt(number, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    // In a listening socket, the fields have this meaning.
    (result == 0).then_some((info.tcpi_unacked, info.tcpi_sacked))
}

/// Prevents holders of the socket from making the kernel drop incoming data, or select which of
/// several sockets gets a connection. Cannot be undone.
pub(crate) fn lock_filter(socket: &impl AsFd) -> io::Result<()> {
    switch_on(socket, libc::SO_LOCK_FILTER)
}

/// Undoes [`steer`](super::steering::steer). Any holder of a socket of the group can do that.
#[cfg(test)]
pub(crate) fn forget_steering(socket: &impl AsFd) -> io::Result<()> {
    switch_on(socket, libc::SO_DETACH_REUSEPORT_BPF)
}

fn switch_on(socket: &impl AsFd, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads one integer, which is alive.
    let done =
        unsafe { libc::setsockopt(number, libc::SOL_SOCKET, name, (&raw const on).cast(), length) };
    Ok(Errno::result(done).map(drop)?)
}

/// Requested buffer size per direction for a socket between master and worker: a larger buffer
/// transfers a large message in fewer steps. Memory is used only while data waits.
const SEND_BUFFER: usize = 2 * 1024 * 1024;

/// Creates two connected Unix stream sockets, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    for end in [&one, &other] {
        // Only a privileged process may exceed the limit of the system, `net.core.wmem_max`.
        if setsockopt(end, SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(end, SndBuf, &SEND_BUFFER)?;
        }
    }
    Ok((one, other))
}

/// Prefix of the address of a worker's end.
const WORKER: &[u8] = b"release-worker/";

/// Marks a socket as a worker's end. A process with this socket as its standard input is a worker,
/// under any program name. Without the mark, only the name can tell.
pub(crate) fn mark_as_worker_s(socket: &impl AsRawFd) {
    use std::hash::BuildHasher;
    let number = std::hash::RandomState::new().hash_one(std::process::id());
    let name = [WORKER, format!("{number:016x}").as_bytes()].concat();
    let _ = UnixAddr::new_abstract(&name).and_then(|name| bind(socket.as_raw_fd(), &name));
}

/// Returns whether a descriptor is a socket marked as a worker's end.
pub(crate) fn is_worker_s(socket: &impl AsRawFd) -> bool {
    getsockname::<UnixAddr>(socket.as_raw_fd())
        .is_ok_and(|name| name.as_abstract().is_some_and(|name| name.starts_with(WORKER)))
}

/// Returns the identity of the peer at the time of the connection, as recorded by the kernel.
pub(crate) fn peer(socket: &impl AsFd) -> io::Result<nix::sys::socket::UnixCredentials> {
    Ok(getsockopt(socket, PeerCredentials)?)
}

/// Returns whether a descriptor is a stream socket.
pub(crate) fn is_stream(socket: &impl AsFd) -> bool {
    getsockopt(socket, sockopt::SockType) == Ok(SockType::Stream)
}

/// Returns whether the socket itself has room to send.
pub(crate) fn is_writable(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Returns whether a read, or an accept, would not wait.
pub(crate) fn is_readable(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_process_gets_the_whole_send_buffer() {
        let (one, other) = pair().unwrap();
        let maximum = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap();
        let is_privileged = setsockopt(&pair().unwrap().0, SndBufForce, &SEND_BUFFER).is_ok();
        let expected = if is_privileged {
            SEND_BUFFER
        } else {
            SEND_BUFFER.min(maximum.trim().parse().unwrap())
        };
        for end in [one, other] {
            // The kernel doubles the requested size, for its own overhead.
            assert_eq!(getsockopt(&end, SndBuf).unwrap(), 2 * expected);
        }
    }
}
