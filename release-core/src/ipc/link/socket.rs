//! One read and one write of a framed socket, and what the kernel says about them.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recvmsg, send};

use crate::rt::Progress;

pub(super) enum Received {
    Bytes(usize),
    End,
    Descriptors,
}

/// One read. Without room for control messages the kernel closes descriptors that came along, and
/// says so.
pub(super) fn receive(fd: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<(Received, Progress)> {
    let room = space.len();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(space)];
    let message = match recvmsg::<()>(fd.as_raw_fd(), &mut parts, None, flags) {
        Ok(message) => message,
        // A peer that died with unread data in its socket; what it sent before was read before.
        Err(Errno::ECONNRESET) => return Ok((Received::End, Progress::More)),
        Err(errno) => return Err(errno.into()),
    };
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Ok((Received::Descriptors, Progress::More));
    }
    Ok(match message.bytes {
        0 => (Received::End, Progress::More),
        count if count < room => (Received::Bytes(count), Progress::Drained),
        count => (Received::Bytes(count), Progress::More),
    })
}

/// One write, of as much as there is room for.
pub(super) fn transmit(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<(usize, Progress)> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let count = send(fd.as_raw_fd(), bytes, flags)?;
    Ok((count, if count < bytes.len() { Progress::Drained } else { Progress::More }))
}
