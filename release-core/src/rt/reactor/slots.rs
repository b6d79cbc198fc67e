//! What is known of the readiness of each watched descriptor, without asking the kernel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};

use futures_util::task::AtomicWaker;
use nix::sys::epoll::EpollFlags;

use super::super::slab::Slab;
use super::super::{Direction, Progress};

/// A watched descriptor.
#[derive(Debug, Default)]
pub(super) struct ReactorSlot {
    reading: Side,
    writing: Side,
}

/// One direction of a descriptor.
///
/// An attempt is worthwhile if an event has come that no attempt has answered. Events are counted,
/// so that an event during an attempt is never taken for an older event.
#[derive(Debug)]
pub(super) struct Side {
    /// The number of events, from one on: nothing is known in the beginning.
    events: AtomicUsize,
    /// This many had come when an attempt began that found nothing left to do.
    answered: AtomicUsize,
    /// A hang-up or an error, which is reported only once. It may have come together with the last
    /// data, so only `WouldBlock` is a reason to wait from then on.
    has_ended: AtomicBool,
    waiter: AtomicWaker,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            events: AtomicUsize::new(1),
            answered: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            waiter: AtomicWaker::new(),
        }
    }
}

impl Side {
    /// Returns the number of events if an attempt is worthwhile. Otherwise, the task is woken when it
    /// is.
    pub(super) fn may_try(&self, cx: &Context<'_>) -> Option<usize> {
        let events = self.events.load(Ordering::Acquire);
        if events != self.answered.load(Ordering::Relaxed) {
            return Some(events);
        }
        self.waiter.register(cx.waker());
        // It may have come before the waker was there.
        let now = self.events.load(Ordering::Acquire);
        (now != events).then_some(now)
    }

    /// Returns whether the next attempt waits for an event.
    pub(super) fn waits_after(&self, outcome: &io::Result<Progress>) -> bool {
        match outcome {
            Ok(Progress::More) => false,
            Ok(Progress::Drained) => !self.has_ended.load(Ordering::Relaxed),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Makes the next attempt wait for an event after the beginning of the last attempt.
    pub(super) fn wait_after(&self, events: usize) {
        self.answered.store(events, Ordering::Relaxed);
    }

    fn report(&self, is_end: bool) -> Option<Waker> {
        if is_end {
            self.has_ended.store(true, Ordering::Relaxed);
        }
        // Publishes the line above.
        self.events.fetch_add(1, Ordering::Release);
        self.waiter.take()
    }
}

impl ReactorSlot {
    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        }
    }

    /// Takes the wakers of the tasks that an event concerns.
    pub(super) fn report(&self, event: EpollFlags, woken: &mut Vec<Waker>) {
        let end = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let read_end = end | EpollFlags::EPOLLRDHUP;
        if event.intersects(EpollFlags::EPOLLIN | read_end) {
            woken.extend(self.reading.report(event.intersects(read_end)));
        }
        if event.intersects(EpollFlags::EPOLLOUT | end) {
            woken.extend(self.writing.report(event.intersects(end)));
        }
    }
}

/// The watched descriptors. The kernel has the key of each.
pub(super) type Slots = Slab<Arc<ReactorSlot>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_during_an_attempt_is_not_lost() {
        let side = Side::default();
        let cx = Context::from_waker(Waker::noop());
        let before = side.may_try(&cx).expect("nothing is known");
        side.report(false);
        assert!(side.waits_after(&Ok(Progress::Drained)));
        side.wait_after(before);
        let after = side.may_try(&cx).expect("an event has come");
        side.wait_after(after);
        assert_eq!(side.may_try(&cx), None);
        side.report(true);
        let end = side.may_try(&cx).expect("the end has come");
        assert!(!side.waits_after(&Ok(Progress::Drained)), "the end comes only once");
        assert!(side.waits_after(&Err(io::ErrorKind::WouldBlock.into())));
        side.wait_after(end);
        assert_eq!(side.may_try(&cx), None);
    }
}
