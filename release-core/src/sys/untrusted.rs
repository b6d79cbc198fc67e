//! Descriptors that somebody else has sent. To close one may take as long as its sender likes: a
//! socket that lingers, also one that waits inside of another socket, or a file of a file system
//! whose server does not answer.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::sockopt::Linger;
use nix::sys::socket::{getsockopt, setsockopt};

use super::rights::drain_now;
use crate::sys::threads::Threads;

/// How many may be closed at a time: as many slow ones hold up those that come after them.
static CLOSERS: Threads = Threads::new("closer", 16);

static WAITING: Mutex<VecDeque<Waiting>> = Mutex::new(VecDeque::new());

/// Who waits until descriptors are closed: until this is dropped.
type Asker = Arc<oneshot::Sender<()>>;

/// One to be closed.
struct Waiting {
    descriptor: OwnedFd,
    /// It is a socket; what is in it is closed first, because another descriptor of it may be closed
    /// after this one.
    is_drained: bool,
    _asker: Option<Asker>,
}

/// How many may wait to be closed. More are kept open: the limit of this process's descriptors is
/// their bound, and this process is not held up.
const MOST: usize = 4096;

/// A descriptor that came from another process and is closed where that holds nobody up.
#[derive(Debug)]
pub(crate) struct Untrusted(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Untrusted {
    fn from(descriptor: OwnedFd) -> Self {
        Self(ManuallyDrop::new(descriptor))
    }
}

/// For whoever asked for it and closes it.
impl From<Untrusted> for OwnedFd {
    fn from(untrusted: Untrusted) -> Self {
        let mut untrusted = ManuallyDrop::new(untrusted);
        // SAFETY: it is taken once: what it was in is not dropped.
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
        // SAFETY: it is taken once: nothing has it after this.
        close(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

/// Closes a descriptor, which may take as long as it likes.
pub(crate) fn close(descriptor: OwnedFd) {
    add(Waiting { descriptor, is_drained: false, _asker: None });
}

/// Closes descriptors; for whoever must not have others to be closed until these are.
pub(crate) fn close_all(descriptors: Vec<Untrusted>) -> oneshot::Receiver<()> {
    let (sender, closed) = oneshot::channel();
    let asker = Arc::new(sender);
    for descriptor in descriptors {
        let _asker = Some(Arc::clone(&asker));
        add(Waiting { descriptor: descriptor.into(), is_drained: false, _asker });
    }
    closed
}

/// Closes what is in a socket, to which nothing more comes.
pub(super) fn drain(socket: OwnedFd) {
    add(Waiting { descriptor: socket, is_drained: true, _asker: None });
}

fn add(one: Waiting) {
    // Nothing waits for the end of a pipe. No other call here may ask the file itself.
    if fcntl(&one.descriptor, FcntlArg::F_GETPIPE_SZ).is_ok() {
        return;
    }
    let mut waiting = waiting();
    if waiting.len() == MOST {
        drop(waiting);
        let number = one.descriptor.into_raw_fd();
        tracing::error!(number, "a descriptor stays open: too many cannot be closed");
        return;
    }
    waiting.push_back(one);
    drop(waiting);
    // Without a thread now, it is closed with one that comes later.
    let _ = CLOSERS.run(Box::new(close_next));
}

/// How many descriptors are not closed yet.
pub(crate) fn unclosed() -> usize {
    waiting().len().max(CLOSERS.unfinished())
}

fn close_next() {
    loop {
        let Some(one) = waiting().pop_front() else { return };
        if one.is_drained {
            drain_now(one.descriptor.as_fd());
        }
        disarm(&one.descriptor);
        drop(one);
    }
}

fn waiting() -> MutexGuard<'static, VecDeque<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a socket not linger: to close it blocks nobody.
pub(super) fn disarm(descriptor: &impl AsFd) {
    // What is no socket has no such option.
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

    /// A Unix socket in whose queue there is a TCP connection that lingers, and what keeps it from
    /// its end.
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
        // With that it can be.
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        while closed.try_recv() == Ok(None) {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    }
}
