//! One read and one write of a framed socket, and what the kernel says about them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, MsgFlags, Shutdown, recv, recvmsg, send, sendmsg, shutdown,
};

use crate::ipc::Ended;
use crate::rt::Progress;
use crate::sys::rights;

pub(super) enum Received {
    Bytes(usize),
    /// Bytes, and descriptors that came with them.
    Rights(usize, Vec<OwnedFd>),
    End,
    /// What came along ends the connection; it is closed.
    Refused(Ended),
}

const UNASKED: Ended = Ended::Violation("descriptors that nobody asked for");
const TOO_MANY: Ended = Ended::Violation("more descriptors with one message than agreed");
const STRANGE: Ended = Ended::Violation("something beside bytes and descriptors");

/// One read, of bytes and at most so many descriptors.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    space: &mut [u8],
    descriptors: usize,
) -> io::Result<(Received, Progress)> {
    let room = space.len();
    let received = if descriptors == 0 {
        receive_bytes(fd, space)
    } else {
        receive_all(fd, space, descriptors)
    };
    let received = match received {
        // A peer that died with unread data in its socket; what it sent before was read before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Received::End,
        received => received?,
    };
    // A read that took descriptors leaves what is behind them.
    let is_drained = matches!(received, Received::Bytes(count) if count < room);
    Ok((received, if is_drained { Progress::Drained } else { Progress::More }))
}

/// Without room for control messages the kernel closes descriptors that came along, and says so.
fn receive_bytes(fd: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<Received> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(space)];
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, flags)?;
    Ok(if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        Received::Refused(UNASKED)
    } else if message.bytes == 0 {
        Received::End
    } else {
        Received::Bytes(message.bytes)
    })
}

fn receive_all(fd: BorrowedFd<'_>, space: &mut [u8], most: usize) -> io::Result<Received> {
    let arrived = rights::receive(fd, space, most)?;
    Ok(if arrived.is_strange {
        Received::Refused(STRANGE)
    } else if arrived.is_truncated && arrived.descriptors.len() < most {
        // There was room in the message, hence there was none in this process.
        Received::Refused(io::Error::from(Errno::EMFILE).into())
    } else if arrived.is_truncated || arrived.descriptors.len() > most {
        Received::Refused(TOO_MANY)
    } else if !arrived.descriptors.is_empty() {
        Received::Rights(arrived.bytes, arrived.descriptors)
    } else if arrived.bytes == 0 {
        Received::End
    } else {
        Received::Bytes(arrived.bytes)
    })
}

/// Ends a connection for both sides, whoever still has the socket.
///
/// What came and was not read is thrown away: descriptors in it would stay open as long as the
/// socket. After the shutdown it does not grow any more.
pub(super) fn close(fd: BorrowedFd<'_>) {
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    let mut thrown_away = [0; 16 * 1024];
    while matches!(recv(fd.as_raw_fd(), &mut thrown_away, MsgFlags::MSG_DONTWAIT), Ok(1..)) {}
}

/// One write, of as much as there is room for; the descriptors go with its first byte.
pub(super) fn transmit(
    fd: BorrowedFd<'_>,
    (bytes, descriptors): (&[u8], &[OwnedFd]),
) -> io::Result<(usize, Progress)> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let count = if descriptors.is_empty() {
        send(fd.as_raw_fd(), bytes, flags)?
    } else {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let (parts, control) = ([IoSlice::new(bytes)], [ControlMessage::ScmRights(&numbers)]);
        sendmsg::<()>(fd.as_raw_fd(), &parts, &control, flags, None)?
    };
    Ok((count, if count < bytes.len() { Progress::Drained } else { Progress::More }))
}
