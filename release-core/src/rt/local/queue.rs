//! The tasks that are ready, as all threads may add to them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use super::super::BoxFuture;
use super::super::reactor::Reactor;

/// Work for the driver.
pub(super) enum ReadyTask {
    /// A spawned future that has not been polled yet.
    New(BoxFuture),
    /// A woken task, by number.
    Task(u64),
}

pub(super) struct Queue {
    /// `None` after the driver's end.
    ready: Mutex<Option<VecDeque<ReadyTask>>>,
    pub(super) reactor: Reactor,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(reactor: Reactor) -> Self {
        Self { ready: Mutex::new(Some(VecDeque::new())), reactor }
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<ReadyTask>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If the driver is gone, a new task is dropped instead.
    pub(super) fn push(&self, ready: ReadyTask) {
        let refused = match &mut *self.lock() {
            Some(queue) => {
                queue.push_back(ready);
                None
            }
            // Dropped after the lock is released.
            None => Some(ready),
        };
        if refused.is_none() {
            self.reactor.wake();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().as_ref().map_or(0, VecDeque::len)
    }

    pub(super) fn pop(&self) -> Option<ReadyTask> {
        self.lock().as_mut().and_then(VecDeque::pop_front)
    }

    /// Refuses further tasks. Returns the tasks that were not started yet.
    pub(super) fn close(&self) -> Option<VecDeque<ReadyTask>> {
        self.lock().take()
    }
}

/// Wakes one task, by number. Repeated wakes before the next poll queue it once.
pub(super) struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    queue: Arc<Queue>,
}

impl TaskWaker {
    pub(super) fn new(id: u64, queue: &Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { id, queued: AtomicBool::new(false), queue: Arc::clone(queue) })
    }

    /// Marks that the task is about to be polled: the next wake queues it again.
    pub(super) fn clear(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.queue.push(ReadyTask::Task(self.id));
        }
    }
}
