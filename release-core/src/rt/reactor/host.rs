//! Where the thread sleeps: in epoll(7), or in the reactor of async-io.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use futures_util::task::AtomicWaker;

/// Where the thread sleeps.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Ends a sleep in async-io's `block_on`.
    pub(super) waker: AtomicWaker,
    /// How many sleeps in epoll(7) a thread of async-io has ended.
    pub(super) visits: AtomicU32,
}

impl Host {
    /// Ends a sleep in async-io's `block_on`. Returns false if the thread sleeps in epoll(7).
    pub(super) fn kick(&self) -> bool {
        if let Some(waker) = self.waker.take() {
            waker.wake();
            return true;
        }
        if thread::current().name().is_some_and(is_of_async_io) {
            self.visits.fetch_add(1, Ordering::Relaxed);
        }
        false
    }
}

/// Returns whether async-io, smol or async-std gives this name to threads that run the reactor.
fn is_of_async_io(thread: &str) -> bool {
    thread == "async-io" || thread == "async-std/runtime" || thread.starts_with("smol-")
}
