//! The queue of callers that wait for room, in order of arrival.

use std::collections::BTreeMap;
use std::task::Waker;

/// Tasks to wake when the lock is released.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    pub(super) background: Option<Waker>,
    pub(super) callers: Vec<Waker>,
}

impl Wakes {
    pub(super) fn wake(self) {
        if let Some(waker) = self.background {
            waker.wake();
        }
        for waker in self.callers {
            waker.wake();
        }
    }
}

/// Callers that wait for room in the outbox or among the requests in flight.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    waiting: BTreeMap<u64, Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    /// `None` if it was woken and has not been polled since.
    waker: Option<Waker>,
    /// Number of descriptors of its request, if it waits because of them.
    descriptors: usize,
}

impl RoomQueue {
    /// Adds a caller, or updates its waker. `number` is its position.
    pub(super) fn wait(&mut self, number: &mut Option<u64>, waker: &Waker, descriptors: usize) {
        let number = *number.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let waker = Some(waker.clone());
        self.waiting.insert(number, Waiter { waker, descriptors });
    }

    pub(super) fn leave(&mut self, number: &mut Option<u64>) {
        if let Some(number) = number.take() {
            self.waiting.remove(&number);
        }
    }

    /// Wakes callers until `room` of them have been woken, including earlier ones not polled yet.
    pub(super) fn wake(&mut self, room: usize, descriptors: usize, wakes: &mut Wakes) {
        let fits = |waiter: &&mut Waiter| waiter.descriptors <= descriptors;
        for waiter in self.waiting.values_mut().filter(fits).take(room) {
            wakes.callers.extend(waiter.waker.take());
        }
    }

    pub(super) fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.callers.extend(self.waiting.values_mut().filter_map(|waiter| waiter.waker.take()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
