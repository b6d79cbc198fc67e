//! Descriptors received from another process. Closing one may take as long as its sender likes: a
//! socket that lingers, even one queued inside another socket, or a file of a file system whose
//! server does not answer.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::sockopt::Linger;
use nix::sys::socket::{getsockopt, setsockopt};

use crate::sys::threads::Threads;

/// Maximum number closed at a time: this many slow ones delay the following ones.
static CLOSERS: Threads = Threads::new("closer", 16);

static WAITING: Mutex<VecDeque<Waiting>> = Mutex::new(VecDeque::new());

/// Notifies the caller that waits until descriptors are closed: when this is dropped.
type Asker = Arc<oneshot::Sender<()>>;

/// Receives the whole queue of a socket, to discard it.
type Drain = fn(BorrowedFd<'_>);

/// A descriptor to be closed.
struct Waiting {
    descriptor: OwnedFd,
    /// Empties the queue of a socket first, because another descriptor of it may be closed after
    /// this one.
    drain: Option<Drain>,
    _asker: Option<Asker>,
}

/// Maximum number waiting to be closed. Further ones are kept open: they are bounded by this
/// process's descriptor limit, and never block it.
const MOST: usize = 4096;

/// A descriptor from another process, closed where that blocks no task.
#[derive(Debug)]
pub(crate) struct Untrusted(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Untrusted {
    fn from(descriptor: OwnedFd) -> Self {
        Self(ManuallyDrop::new(descriptor))
    }
}

/// Returns the descriptor to a caller that requested it and closes it.
impl From<Untrusted> for OwnedFd {
    fn from(untrusted: Untrusted) -> Self {
        let mut untrusted = ManuallyDrop::new(untrusted);
        // SAFETY: taken once: its container is not dropped.
        unsafe { ManuallyDrop::take(&mut untrusted.0) }
    }
}

impl AsFd for Untrusted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Untrusted {
    fn drop(&mut self) {
        // SAFETY: taken once: it is not used after this.
        close(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

/// Closes a descriptor, without a time limit.
pub(crate) fn close(descriptor: OwnedFd) {
    add(Waiting { descriptor, drain: None, _asker: None });
}

/// Closes descriptors, for a caller that must not get new ones to close before these are closed.
pub(crate) fn close_all(descriptors: Vec<Untrusted>) -> oneshot::Receiver<()> {
    let (sender, closed) = oneshot::channel();
    let asker = Arc::new(sender);
    for descriptor in descriptors {
        let _asker = Some(Arc::clone(&asker));
        add(Waiting { descriptor: descriptor.into(), drain: None, _asker });
    }
    closed
}

/// Closes the content of a socket that receives no more.
pub(super) fn drain(socket: OwnedFd, drain: Drain) {
    add(Waiting { descriptor: socket, drain: Some(drain), _asker: None });
}

fn add(one: Waiting) {
    // Closing a pipe never blocks. No other call here may involve the file itself.
    if fcntl(&one.descriptor, FcntlArg::F_GETPIPE_SZ).is_ok() {
        return;
    }
    let mut waiting = waiting();
    if waiting.len() == MOST {
        drop(waiting);
        let number = one.descriptor.into_raw_fd();
        log_error!(number, "a descriptor stays open: too many cannot be closed");
        return;
    }
    waiting.push_back(one);
    drop(waiting);
    // Without a thread now, it is closed together with a later one.
    let _ = CLOSERS.run(Box::new(close_next));
}

/// Returns the number of descriptors that are not closed yet.
pub(crate) fn unclosed() -> usize {
    waiting().len().max(CLOSERS.unfinished())
}

fn close_next() {
    loop {
        let Some(one) = waiting().pop_front() else { return };
        if let Some(drain) = one.drain {
            drain(one.descriptor.as_fd());
        }
        disarm(&one.descriptor);
        drop(one);
    }
}

fn waiting() -> MutexGuard<'static, VecDeque<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns off lingering of a socket: closing it then never blocks.
pub(super) fn disarm(descriptor: &impl AsFd) {
    // Only sockets have this option.
    if getsockopt(descriptor, Linger).is_ok_and(|linger| linger.l_onoff != 0 && linger.l_linger > 0)
    {
        let _ = setsockopt(descriptor, Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write, pipe};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    /// Creates a Unix socket with a lingering TCP connection in its queue, and the socket that
    /// keeps the connection from ending.
    fn bomb() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        setsockopt(&sent, Linger, &libc::linger { l_onoff: 1, l_linger: 20 }).unwrap();
        sent.set_nonblocking(true).unwrap();
        while sent.write_all(&[7; 65536]).is_ok() {}
        let (inner, outer) = UnixStream::pair().unwrap();
        let numbers = [sent.as_raw_fd()];
        let (parts, control) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&numbers)]);
        sendmsg::<()>(outer.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
        (inner.into(), reader)
    }

    #[test]
    fn what_cannot_be_closed_holds_nobody_up() {
        let (bomb, mut reader) = bomb();
        let (mut pipe, writer) = pipe().unwrap();
        let start = Instant::now();
        let mut closed = close_all(vec![bomb.into(), OwnedFd::from(writer).into()]);
        assert_eq!(pipe.read(&mut [0]).unwrap(), 0);
        drop(Untrusted::from(OwnedFd::from(UnixStream::pair().unwrap().0)));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(closed.try_recv(), Ok(None));
        assert!(unclosed() > 0);
        // Now it can end.
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        while closed.try_recv() == Ok(None) {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    }
}
