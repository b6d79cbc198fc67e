//! Helpers shared by the checks.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::super::{Driver, Io, Progress, Rt, run};

/// The constructor of the driver under test.
pub(super) type Make = dyn Fn() -> Box<dyn Driver> + Send + Sync;

/// Long enough for a loaded machine to do the required work, short enough to wait in vain.
pub(super) const A_WHILE: Duration = Duration::from_millis(100);

/// Runs an async check on its own driver, which is dropped afterwards.
pub(super) fn on<F: Future>(make: &Make, main: impl FnOnce(Rt) -> F) -> F::Output {
    let driver = make();
    let rt = driver.handle();
    run(driver.as_ref(), main(rt))
}

/// Creates a watched socket, and a plain blocking socket that is connected to it.
pub(super) fn half_watched(rt: &Rt) -> (Io, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair failed");
    (watch(rt, ours), theirs)
}

pub(super) fn watch(rt: &Rt, fd: impl Into<OwnedFd>) -> Io {
    rt.register(fd.into()).expect("register failed")
}

/// Returns an attempt that reads at most `N` bytes and never reports that the queue is empty.
pub(super) fn read<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Progress)> {
    let mut bytes = [0; N];
    let count = nix::unistd::read(fd, &mut bytes)?;
    Ok((bytes[..count].to_vec(), Progress::More))
}

/// Like [`read`], but takes a short read as proof that the queue is empty now.
pub(super) fn drain<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Progress)> {
    let (bytes, _) = read::<N>(fd)?;
    let progress = if bytes.len() < N { Progress::Drained } else { Progress::More };
    Ok((bytes, progress))
}

/// For sockets and pipes. Rust programs ignore the signal sent when the reader is gone.
pub(super) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(fd, bytes)?)
}

/// Writes until the socket accepts no more. Returns the number of bytes written. The driver is not
/// involved: a driver that waits before it tries may return `Pending` although there is room.
pub(super) fn fill(io: &Io) -> usize {
    let mut total = 0;
    loop {
        match write(io.as_fd(), &[7; 4096]) {
            Ok(written) => total += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total,
            Err(error) => panic!("write failed: {error}"),
        }
    }
}

/// Waits until a condition holds. A check that waits in vain hangs, and is reported.
pub(super) async fn eventually(rt: &Rt, mut so: impl FnMut() -> bool) {
    while !so() {
        rt.sleep(Duration::from_millis(5)).await;
    }
}

/// A waker that counts its wakes.
#[derive(Default)]
pub(super) struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl WakeCounter {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Lets every other task have a turn.
pub(super) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs a future on this thread using only `park`, as foreign code might.
pub(super) fn block_on_plain_thread<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Adds one when it is dropped.
pub(super) struct CountsDrop(pub(super) Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
