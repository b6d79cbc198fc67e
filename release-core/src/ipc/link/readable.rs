//! The waker of the socket's reader, which may change with each call.
//!
//! The runtime always keeps the same waker, which forwards a wake-up to the current reader. The wakers
//! of both readers stay here: a change of the reader costs no system call, no call of the runtime, and
//! usually no clone of a waker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::ipc::wire::header::RequestNumber;

/// The task that reads the socket and receives its wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketReader {
    Background,
    Caller(RequestNumber),
}

#[derive(Debug)]
pub(super) struct Readable {
    shared: Arc<ReadWaker>,
    /// The waker for the runtime.
    waker: Waker,
}

#[derive(Debug, Default)]
struct ReadWaker {
    readers: Mutex<Readers>,
    /// Set if the socket was not ready and the runtime has not woken since: the result would be the
    /// same.
    is_awaited: AtomicBool,
}

/// The two tasks that read in turn. No waker is woken or dropped while they are locked.
#[derive(Debug, Default)]
struct Readers {
    background: Option<Waker>,
    caller: Option<Waker>,
    /// True if the caller reads.
    is_caller: bool,
}

impl Readers {
    fn current(&mut self) -> &mut Option<Waker> {
        if self.is_caller { &mut self.caller } else { &mut self.background }
    }
}

impl Default for Readable {
    fn default() -> Self {
        let shared = Arc::new(ReadWaker::default());
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }
}

impl ReadWaker {
    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this task the reader.
    fn register(&self, reader: SocketReader, waker: &Waker) {
        let mut readers = self.lock();
        readers.is_caller = reader != SocketReader::Background;
        let known = readers.current();
        if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        let replaced = known.replace(waker.clone());
        drop(readers);
        drop(replaced);
    }
}

impl Wake for ReadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_awaited.store(false, Ordering::Release);
        let reader = self.lock().current().clone();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Readable {
    /// Polls the runtime with `read`, unless it will wake this reader anyway.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        reader: SocketReader,
        read: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // First the waker, then the flag: a wake-up in between clears the flag or finds the waker.
        self.shared.register(reader, cx.waker());
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

    /// Drops the waker of a caller that has given up.
    pub(super) fn forget_caller(&self) {
        let given_up = self.shared.lock().caller.take();
        drop(given_up);
    }

    /// Takes the waker of the reader, to wake it for another reason.
    pub(super) fn take(&self) -> Option<Waker> {
        self.shared.lock().current().take()
    }
}
