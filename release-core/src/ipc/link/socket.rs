//! One read and one write of a framed socket, and what the kernel says about them.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, send, sendmsg, shutdown};

use crate::ipc::Ended;
use crate::rt::Progress;
use crate::sys::rights;
use crate::sys::untrusted::Untrusted;

pub(super) enum Received {
    Bytes(usize),
    /// Bytes, and descriptors that came with them.
    Rights(usize, Vec<Untrusted>),
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
    most: usize,
) -> io::Result<(Received, Progress)> {
    let room = space.len();
    let arrived = match rights::receive(fd, space) {
        Ok(arrived) => arrived,
        // A peer that died with unread data in its socket; what it sent before was read before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Ok((Received::End, Progress::More));
        }
        Err(error) => return Err(error),
    };
    let (bytes, descriptors) = (arrived.bytes, arrived.descriptors);
    let received = if arrived.is_strange {
        Received::Refused(STRANGE)
    } else if descriptors.len() > most {
        Received::Refused(if most == 0 { UNASKED } else { TOO_MANY })
    } else if arrived.is_truncated {
        // There was room in the message, hence there was none in this process.
        Received::Refused(io::Error::from(Errno::EMFILE).into())
    } else if !descriptors.is_empty() {
        Received::Rights(bytes, descriptors)
    } else if bytes == 0 {
        Received::End
    } else {
        let progress = if bytes < room { Progress::Drained } else { Progress::More };
        return Ok((Received::Bytes(bytes), progress));
    };
    // A read that took descriptors leaves what is behind them.
    Ok((received, Progress::More))
}

/// Ends a connection for both sides, whoever still has the socket.
///
/// What came and was not read is thrown away: descriptors in it would stay open as long as the
/// socket.
pub(super) fn close(fd: BorrowedFd<'_>) {
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    rights::discard(fd);
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
