//! `Io`: one watched descriptor, the one place where `EINTR` is retried, and values out of attempts.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use super::{Direction, Progress, Source};

/// A registered descriptor.
pub(crate) struct Io(Box<dyn Source>);

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsFd for Io {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Io {
    pub(crate) fn new(source: Box<dyn Source>) -> Self {
        Self(source)
    }

    /// [`Source::poll_io`], with the value of the attempt that succeeded.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<(T, Progress)>,
    ) -> Poll<io::Result<T>> {
        let mut value = None;
        let polled = self.0.poll_io(cx, direction, &mut |fd| {
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
        match (polled, value) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (_, Some(value)) => Poll::Ready(Ok(value)),
            (Poll::Ready(Ok(())), None) => Poll::Ready(Err(io::Error::other(
                "the runtime reported success without an attempt",
            ))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// [`Io::poll`] as a future. Dropping it loses nothing: an attempt that took data has returned.
    pub(crate) async fn run<T>(
        &self,
        direction: Direction,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<(T, Progress)>,
    ) -> io::Result<T> {
        std::future::poll_fn(|cx| self.poll(cx, direction, &mut attempt)).await
    }
}
