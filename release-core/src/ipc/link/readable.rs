//! The waker of the socket's reader, which may change with each call.
//!
//! The runtime always keeps the same waker, which forwards a wake-up to the current reader. A
//! change of the reader costs no system call and no call of the runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

#[derive(Debug)]
pub(super) struct Readable {
    shared: Arc<ReadWaker>,
    /// The waker for the runtime.
    waker: Waker,
}

#[derive(Debug, Default)]
struct ReadWaker {
    reader: AtomicWaker,
    /// Set if the socket was not ready and the runtime has not woken since: the result would be the
    /// same.
    is_awaited: AtomicBool,
}

impl Default for Readable {
    fn default() -> Self {
        let shared = Arc::new(ReadWaker::default());
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }
}

impl Wake for ReadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_awaited.store(false, Ordering::Release);
        self.reader.wake();
    }
}

impl Readable {
    /// Polls the runtime with `read`, unless it will wake this reader anyway.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        read: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // First the waker, then the flag: a wake-up in between clears the flag or finds the waker.
        self.shared.reader.register(cx.waker());
        // Set before the runtime is polled, because it may wake before it returns.
        if self.shared.is_awaited.swap(true, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let polled = read(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.shared.is_awaited.store(false, Ordering::Release);
        }
        polled
    }

    /// Takes the waker of the reader, to wake it for another reason.
    pub(super) fn take(&self) -> Option<Waker> {
        self.shared.reader.take()
    }
}
