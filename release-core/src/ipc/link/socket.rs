//! Single reads and writes of a framed socket, and their errors.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, recv, send, sendmsg, shutdown};

use crate::ipc::{Descriptor, Ended};
use crate::rt::Progress;
use crate::sys::rights;
use crate::sys::untrusted::Untrusted;

pub(super) enum Received {
    Bytes(usize),
    /// Bytes, and descriptors that came with them; none if this process has no free ones.
    Rights(usize, Vec<Untrusted>),
    End,
    /// A violation, which ends the connection. Received descriptors are closed.
    Refused(Ended),
}

const UNASKED: Ended = Ended::Violation("descriptors that nobody asked for");
const TOO_MANY: Ended = Ended::Violation("more descriptors with one message than agreed");
const STRANGE: Ended = Ended::Violation("something beside bytes and descriptors");

/// Reads bytes and at most `most` descriptors.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    space: &mut [u8],
    most: usize,
) -> io::Result<(Received, Progress)> {
    let room = space.len();
    let arrived = match rights::receive(fd, space) {
        Ok(arrived) => arrived,
        // The peer exited with unread data in its socket. Its own data was read before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Ok((Received::End, Progress::More));
        }
        Err(error) => return Err(error),
    };
    let (bytes, descriptors) = (arrived.bytes, arrived.descriptors);
    let received = if arrived.is_strange {
        Received::Refused(STRANGE)
    } else if most == 0 && (arrived.is_truncated || !descriptors.is_empty()) {
        Received::Refused(UNASKED)
    } else if descriptors.len() > most {
        Received::Refused(TOO_MANY)
    } else if arrived.is_truncated {
        // The message had room, so this process has no free descriptors: the frame is without them.
        Received::Rights(bytes, Vec::new())
    } else if !descriptors.is_empty() {
        Received::Rights(bytes, descriptors)
    } else if bytes == 0 {
        Received::End
    } else {
        let progress = if bytes < room { Progress::Drained } else { Progress::More };
        return Ok((Received::Bytes(bytes), progress));
    };
    // A read with descriptors ends at them.
    Ok((received, Progress::More))
}

/// Returns whether bytes have arrived, without reading them, or else the connection has ended.
pub(super) fn has_arrived(fd: BorrowedFd<'_>) -> io::Result<(bool, Progress)> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(fd.as_raw_fd(), &mut [0], flags) {
        Ok(count) => Ok((count > 0, Progress::More)),
        Err(Errno::ECONNRESET) => Ok((false, Progress::More)),
        Err(error) => Err(error.into()),
    }
}

/// Shuts a connection down for both sides, also if other processes have the socket.
///
/// Discards unread data: descriptors in it would stay open as long as the socket.
pub(super) fn close(fd: BorrowedFd<'_>) {
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    rights::discard(fd);
}

/// Writes as many bytes as possible. The descriptors are sent with the first byte.
pub(super) fn transmit(
    fd: BorrowedFd<'_>,
    (bytes, descriptors): (&[u8], &[Descriptor]),
) -> io::Result<(usize, Progress)> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let count = if descriptors.is_empty() {
        send(fd.as_raw_fd(), bytes, flags)?
    } else {
        let numbers: Vec<RawFd> = descriptors.iter().map(|one| one.as_fd().as_raw_fd()).collect();
        let (parts, control) = ([IoSlice::new(bytes)], [ControlMessage::ScmRights(&numbers)]);
        sendmsg::<()>(fd.as_raw_fd(), &parts, &control, flags, None)?
    };
    Ok((count, if count < bytes.len() { Progress::Drained } else { Progress::More }))
}
