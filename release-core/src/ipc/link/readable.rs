//! Whom the socket wakes, when the reader changes with every call.
//!
//! The runtime holds one and the same waker all the time, which passes a wake-up on to whoever reads
//! at the moment: another reader costs no system call, and no question to the runtime either.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

#[derive(Debug)]
pub(super) struct Readable {
    shared: Arc<ReadWaker>,
    /// What the runtime is given.
    waker: Waker,
}

#[derive(Debug, Default)]
struct ReadWaker {
    reader: AtomicWaker,
    /// The runtime has said "not yet" and not woken since: it would say the same again.
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
    /// Asks the runtime with `read` unless a wake-up is due anyway, which will be this reader's.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        read: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // First the waker, then the flag: a wake-up in between clears the flag or finds the waker.
        self.shared.reader.register(cx.waker());
        // Set before the runtime is asked, whose wake-up may come before its answer.
        if self.shared.is_awaited.swap(true, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let polled = read(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.shared.is_awaited.store(false, Ordering::Release);
        }
        polled
    }

    /// The reader, who is to be told something else.
    pub(super) fn take(&self) -> Option<Waker> {
        self.shared.reader.take()
    }
}
