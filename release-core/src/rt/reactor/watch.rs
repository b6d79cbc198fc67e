//! The means by which a task waits: a source and a timer.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::super::{Direction, Progress, Source};
use super::shared::Shared;
use super::slots::ReactorSlot;
use crate::sys::epoll;

/// A descriptor that the kernel watches from its registration to its end.
///
/// It is watched for writing only from a write that found no room to one that did: the peer of a Unix
/// socket makes room whenever it reads, and each time would wake the thread for nothing.
struct ReactorSource {
    fd: OwnedFd,
    slot: Arc<ReactorSlot>,
    key: u64,
    is_watched_for_room: AtomicBool,
    shared: Arc<Shared>,
}

/// Watches a descriptor.
pub(super) fn watch(fd: OwnedFd, shared: &Arc<Shared>) -> io::Result<Box<dyn Source>> {
    let slot = Arc::<ReactorSlot>::default();
    let key = shared.lock().slots.insert(|_| Arc::clone(&slot));
    match epoll::add(&shared.epoll, &fd, EpollEvent::new(interest(false), key)) {
        Ok(()) => {
            let (is_watched_for_room, shared) = (AtomicBool::new(false), Arc::clone(shared));
            Ok(Box::new(ReactorSource { fd, slot, key, is_watched_for_room, shared }))
        }
        Err(error) => {
            shared.lock().slots.remove(key);
            match error {
                Errno::EPERM => Ok(Box::new(AlwaysReady(fd))),
                _ => Err(error.into()),
            }
        }
    }
}

fn interest(is_in_room: bool) -> EpollFlags {
    let reading = EpollFlags::EPOLLET | EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
    if is_in_room { reading | EpollFlags::EPOLLOUT } else { reading }
}

impl ReactorSource {
    /// If there is room by now, the kernel reports it.
    fn watch_for_room(&self, wanted: bool) -> io::Result<()> {
        // One task writes at a time.
        if self.is_watched_for_room.load(Ordering::Relaxed) != wanted {
            let event = EpollEvent::new(interest(wanted), self.key);
            epoll::modify(&self.shared.epoll, &self.fd, event)?;
            self.is_watched_for_room.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Source for ReactorSource {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        let side = self.slot.side(direction);
        while let Some(events) = side.may_try(cx) {
            let outcome = attempt(self.as_fd());
            let waits = side.waits_after(&outcome);
            let watched = match direction {
                Direction::Read => Ok(()),
                Direction::Write => self.watch_for_room(waits),
            };
            if waits && watched.is_ok() {
                side.wait_after(events);
            }
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => watched?,
                outcome => return Poll::Ready(outcome.map(drop)),
            }
        }
        Poll::Pending
    }
}

impl AsFd for ReactorSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for ReactorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Drop for ReactorSource {
    fn drop(&mut self) {
        // Closing is not enough if another process has a duplicate.
        let _ = self.shared.epoll.delete(&self.fd);
        let slot = self.shared.lock().slots.remove(self.key);
        drop(slot);
    }
}

/// A descriptor that epoll refuses, because it never makes anybody wait: a regular file, `/dev/null`.
#[derive(Debug)]
struct AlwaysReady(OwnedFd);

impl Source for AlwaysReady {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        _direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        match attempt(self.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            outcome => Poll::Ready(outcome.map(drop)),
        }
    }
}

impl AsFd for AlwaysReady {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer. The reactor knows only timers with a waiting task.
pub(super) struct Sleep {
    deadline: Instant,
    id: u64,
    is_armed: bool,
    shared: Arc<Shared>,
}

impl Sleep {
    pub(super) fn new(deadline: Instant, shared: &Arc<Shared>) -> Self {
        let id = shared.last_timer.fetch_add(1, Ordering::Relaxed);
        Self { deadline, id, is_armed: false, shared: Arc::clone(shared) }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.now() >= self.deadline {
            return Poll::Ready(());
        }
        self.is_armed = true;
        let (key, waker) = ((self.deadline, self.id), cx.waker().clone());
        let mut state = self.shared.lock();
        let replaced = state.timers.insert(key, waker);
        let is_first = state.timers.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        drop(replaced);
        if is_first {
            self.shared.rouse();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.is_armed {
            let waker = self.shared.lock().timers.remove(&(self.deadline, self.id));
            drop(waker);
        }
    }
}
