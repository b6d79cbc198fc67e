//! The queue of callers that wait for room, in order of arrival.

use std::collections::BTreeMap;
use std::task::Waker;

use super::notes::Note;
use crate::guard::wake_all;

/// Tasks to wake when the lock is released.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    pub(super) background: Option<Waker>,
    /// Usually there is no more than one caller, and then no vector.
    caller: Option<Waker>,
    more: Vec<Waker>,
    /// For the log, which is no part of what the lock protects either.
    notes: Vec<Note>,
}

impl Wakes {
    /// Adds callers. A task that waits for several answers is woken once for those in a row.
    pub(super) fn add(&mut self, callers: impl IntoIterator<Item = Waker>) {
        for waker in callers {
            let last = self.more.last().or(self.caller.as_ref());
            if last.is_some_and(|last| last.will_wake(&waker)) {
                continue;
            }
            match self.caller {
                None => self.caller = Some(waker),
                Some(_) => self.more.push(waker),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.background.is_none() && self.caller.is_none() && self.notes.is_empty()
    }

    pub(super) fn wake(self) {
        wake_all(self.background.into_iter().chain(self.caller).chain(self.more));
        self.notes.into_iter().for_each(Note::log);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
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

    #[inline]
    pub(super) fn leave(&mut self, number: &mut Option<u64>) {
        if let Some(number) = number.take() {
            self.waiting.remove(&number);
        }
    }

    /// Wakes callers until `room` of them have been woken, including earlier ones not polled yet.
    pub(super) fn wake(&mut self, room: usize, descriptors: usize, wakes: &mut Wakes) {
        let fits = |waiter: &&mut Waiter| waiter.descriptors <= descriptors;
        for waiter in self.waiting.values_mut().filter(fits).take(room) {
            wakes.add(waiter.waker.take());
        }
    }

    pub(super) fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.add(self.waiting.values_mut().filter_map(|waiter| waiter.waker.take()));
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
