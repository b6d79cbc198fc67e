//! Descriptors that arrive with bytes (`SCM_RIGHTS`): received and owned in one step; and the
//! sender, for a socket that requests it (`SCM_CREDENTIALS`).

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{Shutdown, shutdown};

use super::untrusted::{self, Untrusted};

/// Maximum number of descriptors that the kernel passes with one message.
pub(crate) const MOST: usize = 253;

/// Space for that many descriptors and for the sender, with headers and padding, in words so that
/// the headers are aligned.
const WORDS: usize = 16 + MOST.div_ceil(2);

/// The result of one read.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) bytes: usize,
    pub(crate) descriptors: Vec<Untrusted>,
    /// The kernel has closed descriptors: this process had no room for them.
    pub(crate) is_truncated: bool,
    /// Control data other than descriptors arrived: a socket's owner may enable that.
    pub(crate) is_strange: bool,
    /// The sender, for a socket with `SO_PASSCRED`.
    pub(crate) sender: Option<Sender>,
}

/// A process, as identified by the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
}

/// Reads once without blocking, with room for the maximum number of descriptors. They are
/// close-on-exec.
///
/// A lingering socket blocks the process that closes it last, for as long as its sender likes.
/// There is room even if no descriptor is wanted, because the kernel would otherwise close them
/// inside the read. When this returns, no socket lingers, and unwanted descriptors are closed
/// elsewhere.
pub(crate) fn receive(socket: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<Arrived> {
    let mut room = MaybeUninit::<[u64; WORDS]>::uninit();
    let mut part = libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    // SAFETY: a plain C structure, for which all zeros is a value: no name, no parts, no room.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = room.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&room) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the kernel writes to `space` and `room`, which live longer than the call, and no more
    // than the lengths given with them.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(bytes) = usize::try_from(count) else {
        return Err(io::Error::last_os_error());
    };
    let (descriptors, sender, is_strange) = owned(&message);
    descriptors.iter().for_each(untrusted::disarm);
    let is_truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Arrived { bytes, descriptors, is_truncated, is_strange, sender })
}

/// The option of a Unix socket that refuses descriptors: `SO_PASSRIGHTS`, since Linux 6.16.
const PASS_RIGHTS: libc::c_int = 83;

/// Makes the kernel refuse descriptors sent to a socket, or to the sockets that a listener accepts.
/// Sending one then fails with `EPERM`. An older kernel does not know the option.
pub(crate) fn refuse(socket: BorrowedFd<'_>) {
    let no: libc::c_int = 0;
    let length = libc::socklen_t::try_from(size_of_val(&no)).unwrap_or_default();
    // SAFETY: the kernel reads an integer of that length.
    let _ = unsafe {
        let (level, value) = (libc::SOL_SOCKET, (&raw const no).cast());
        libc::setsockopt(socket.as_raw_fd(), level, PASS_RIGHTS, value, length)
    };
}

/// Ends reception at a socket, and discards its queue where that blocks no task: closing the socket
/// itself then never blocks.
pub(crate) fn discard(socket: BorrowedFd<'_>) {
    if shutdown(socket.as_raw_fd(), Shutdown::Read).is_err() || refuses(socket) {
        return;
    }
    match socket.try_clone_to_owned() {
        Ok(other) => untrusted::drain(other, drain_now),
        Err(_) => drain_now(socket),
    }
}

/// Receives the whole queue of a socket, to discard it.
fn drain_now(socket: BorrowedFd<'_>) {
    let mut space = [0; 4096];
    // An empty message has a sender, the end of file has none.
    let is_more = |arrived: Arrived| arrived.bytes > 0 || arrived.sender.is_some();
    while receive(socket, &mut space).is_ok_and(is_more) {}
}

/// Returns whether a socket can contain only bytes.
pub(crate) fn refuses(socket: BorrowedFd<'_>) -> bool {
    let mut passes: libc::c_int = 1;
    let mut length = libc::socklen_t::try_from(size_of_val(&passes)).unwrap_or_default();
    // SAFETY: the kernel writes an integer of that length.
    let result = unsafe {
        let (level, value) = (libc::SOL_SOCKET, (&raw mut passes).cast());
        libc::getsockopt(socket.as_raw_fd(), level, PASS_RIGHTS, value, &raw mut length)
    };
    result == 0 && passes == 0
}

/// Returns the length of a control message with this many descriptors.
fn length_of(count: usize) -> usize {
    let bytes = u32::try_from(count * size_of::<RawFd>()).unwrap_or_default();
    // SAFETY: only computes; the argument is small.
    let length = unsafe { libc::CMSG_LEN(bytes) };
    usize::try_from(length).unwrap_or_default()
}

/// Returns every descriptor that the kernel has put into the message, the sender, and whether the
/// message contains more.
fn owned(message: &libc::msghdr) -> (Vec<Untrusted>, Option<Sender>, bool) {
    let (mut descriptors, mut sender, mut is_strange) = (Vec::new(), None, false);
    // SAFETY: the kernel has set the length to the number of bytes it wrote to the control buffer.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or a header in the buffer, which is aligned for headers and initialised.
    while let Some(header) = unsafe { next.as_ref() } {
        let kind = (header.cmsg_level, header.cmsg_type);
        is_strange |= kind != (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: points behind the header, into the same buffer.
            let first = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            // Of another type where libc is musl's, or the machine has 32 bits.
            #[allow(clippy::unnecessary_cast)]
            let length = header.cmsg_len as usize;
            let count = length.saturating_sub(length_of(0)) / size_of::<RawFd>();
            // SAFETY: the kernel wrote `count` numbers there; headers are aligned for them.
            let numbers = unsafe { std::slice::from_raw_parts(first, count) };
            // SAFETY: the kernel has just created these descriptors for this process, each number once.
            let owned = numbers.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
            descriptors.extend(owned.map(Untrusted::from));
        } else if kind == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
            // SAFETY: points behind the header, into the same buffer.
            let from = unsafe { libc::CMSG_DATA(next) }.cast::<libc::ucred>();
            // SAFETY: the kernel wrote this structure there.
            let from = unsafe { from.read_unaligned() };
            sender = Some(Sender { uid: from.uid, pid: from.pid });
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (descriptors, sender, is_strange)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, PipeReader, Read, pipe};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::sockopt::Linger;
    use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, setsockopt};

    use super::*;

    /// Sends copies of a pipe's write end. The read end reports when all are closed.
    fn send(socket: &UnixStream, bytes: &[u8], count: usize) -> PipeReader {
        let (reader, writer) = pipe().unwrap();
        let numbers = vec![writer.as_raw_fd(); count];
        let control = [ControlMessage::ScmRights(&numbers)];
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
        reader
    }

    #[test]
    fn all_that_the_kernel_passes_at_once_arrive_and_belong_to_this_process_alone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut reader = send(&theirs, b"x", MOST);
        let arrived = receive(ours.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!((arrived.bytes, arrived.descriptors.len()), (1, MOST));
        assert!(!arrived.is_truncated && !arrived.is_strange);
        for descriptor in &arrived.descriptors {
            let flags = FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        drop(arrived);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_socket_that_lingers_does_so_no_more() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        setsockopt(&sent, Linger, &libc::linger { l_onoff: 1, l_linger: 30 }).unwrap();
        let numbers = [sent.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&numbers)];
        let parts = [IoSlice::new(b"x")];
        sendmsg::<()>(theirs.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
        let arrived = receive(ours.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!(getsockopt(&arrived.descriptors[0], Linger).unwrap().l_onoff, 0);
    }

    #[test]
    fn a_read_never_has_the_descriptors_of_two_writes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _readers = [send(&theirs, b"one", 1), send(&theirs, b"two", 2)];
        let first = receive(ours.as_fd(), &mut [0; 100]).unwrap();
        assert_eq!((first.bytes, first.descriptors.len()), (3, 1));
        let second = receive(ours.as_fd(), &mut [0; 100]).unwrap();
        assert_eq!((second.bytes, second.descriptors.len()), (3, 2));
    }

    #[test]
    fn what_is_not_a_descriptor_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        setsockopt(&ours, nix::sys::socket::sockopt::PassCred, &true).unwrap();
        let _reader = send(&theirs, b"x", 1);
        let arrived = receive(ours.as_fd(), &mut [0; 8]).unwrap();
        assert!(arrived.is_strange);
        let sender = arrived.sender.map(|sender| sender.pid.cast_unsigned());
        assert_eq!(sender, Some(std::process::id()));
        assert_eq!(arrived.descriptors.len(), 1);
    }
}
