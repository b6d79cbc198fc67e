//! `Io`: one watched descriptor, the only place that retries `EINTR`, and values from attempts.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use super::{Direction, Progress, Source};

/// Number of consecutive attempts that may succeed before other tasks get their turn: the peer may
/// continue forever.
const TURN: u32 = 64;

/// A registered descriptor.
pub(crate) struct Io {
    source: Box<dyn Source>,
    /// Number of successful attempts since the last wait, per direction.
    in_a_row: [AtomicU32; 2],
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl AsFd for Io {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Io {
    pub(crate) fn new(source: Box<dyn Source>) -> Self {
        Self { source, in_a_row: Default::default() }
    }

    /// Like [`Source::poll_io`], but returns the value of the attempt that succeeded.
    ///
    /// Yields from time to time, so that callers may loop on it without starving other tasks.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<(T, Progress)>,
    ) -> Poll<io::Result<T>> {
        let in_a_row = &self.in_a_row[usize::from(direction == Direction::Write)];
        if in_a_row.load(Ordering::Relaxed) == TURN {
            in_a_row.store(0, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut value = None;
        let polled = self.source.poll_io(cx, direction, &mut |fd| {
            loop {
                match attempt(fd) {
                    Ok((done, progress)) => {
                        value = Some(done);
                        return Ok(progress);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        });
        debug_assert!(
            !(polled.is_pending() && value.is_some()),
            "a source returned Pending although its attempt had succeeded"
        );
        // Only one task polls a direction at a time.
        let count = if value.is_some() { in_a_row.load(Ordering::Relaxed) + 1 } else { 0 };
        in_a_row.store(count, Ordering::Relaxed);
        match (polled, value) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (_, Some(value)) => Poll::Ready(Ok(value)),
            (Poll::Ready(Ok(())), None) => Poll::Ready(Err(io::Error::other(
                "the runtime reported success without an attempt",
            ))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// Like [`Io::poll`], as a future. Dropping it loses no data: an attempt that took data has
    /// returned.
    pub(crate) async fn run<T>(
        &self,
        direction: Direction,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<(T, Progress)>,
    ) -> io::Result<T> {
        std::future::poll_fn(|cx| self.poll(cx, direction, &mut attempt)).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::OwnedFd;

    use nix::unistd::read;

    use super::*;
    use crate::rt::local::Local;
    use crate::rt::{Driver, run};

    #[test]
    fn a_source_without_end_leaves_others_their_turn() {
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let (endless, sink) = pipe().unwrap();
        (&sink).write_all(&[7; 65536]).unwrap();
        let io = rt.register(OwnedFd::from(endless)).unwrap();
        run(&driver, async {
            let (sender, mut other) = futures_channel::oneshot::channel();
            rt.spawn(async move { sender.send(()) }).detach();
            let mut count = 0;
            while other.try_recv() == Ok(None) {
                let attempt =
                    io.run(Direction::Read, |fd| Ok((read(fd.as_fd(), &mut [0])?, Progress::More)));
                assert_eq!(attempt.await.unwrap(), 1);
                count += 1;
            }
            assert!(count <= 65, "{count} before the other");
        });
    }
}
