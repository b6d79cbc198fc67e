//! The means by which a task waits: a source and a timer.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::super::{Direction, Progress, Source};
use super::shared::{Shared, Watched};

pub(super) struct LocalSource {
    watched: Arc<Watched>,
    id: u64,
    shared: Arc<Shared>,
}

impl LocalSource {
    pub(super) fn new(watched: Arc<Watched>, id: u64, shared: Arc<Shared>) -> Self {
        Self { watched, id, shared }
    }

    fn wait(&self, cx: &Context<'_>, direction: Direction) {
        let waker = cx.waker().clone();
        let replaced = self.shared.change(|state| {
            state
                .sources
                .get_mut(&self.id)
                .and_then(|waiters| waiters.side(direction).replace(waker))
        });
        drop(replaced);
    }
}

impl Source for LocalSource {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        if !self.watched.blocked(direction) {
            match attempt(self.as_fd()) {
                Ok(Progress::More) => return Poll::Ready(Ok(())),
                Ok(Progress::Drained) => {
                    self.watched.set_blocked(direction, true);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watched.set_blocked(direction, true);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.wait(cx, direction);
        Poll::Pending
    }
}

impl AsFd for LocalSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl fmt::Debug for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("fd", &self.watched.fd).finish_non_exhaustive()
    }
}

impl Drop for LocalSource {
    fn drop(&mut self) {
        // If the driver currently sleeps on the descriptor, the change wakes it, and it lets go.
        let waiters = self.shared.change(|state| state.sources.remove(&self.id));
        drop(waiters);
    }
}

/// A timer. The driver knows only timers with a waiting task.
pub(super) struct Sleep {
    deadline: Instant,
    id: u64,
    armed: bool,
    shared: Arc<Shared>,
}

impl Sleep {
    pub(super) fn new(deadline: Instant, id: u64, shared: Arc<Shared>) -> Self {
        Self { deadline, id, armed: false, shared }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.now() >= self.deadline {
            return Poll::Ready(());
        }
        self.armed = true;
        let (key, waker) = ((self.deadline, self.id), cx.waker().clone());
        let replaced = self.shared.change(|state| state.timers.insert(key, waker));
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.armed {
            let key = (self.deadline, self.id);
            let waker = self.shared.change(|state| state.timers.remove(&key));
            drop(waker);
        }
    }
}
