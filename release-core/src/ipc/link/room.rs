//! Callers that wait for room: each once, the first first, and gone when they are.

use std::collections::BTreeMap;
use std::task::Waker;

use super::Link;
use super::state::{State, Wakes};

/// Callers that wait for room in the outbox or among the requests in flight.
#[derive(Debug, Default)]
pub(super) struct Room {
    waiting: BTreeMap<u64, Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    /// None when it has been woken and has not looked since.
    waker: Option<Waker>,
    /// How many descriptors its request has, when they are what there is no room for.
    descriptors: usize,
}

/// A caller's place among those that wait, which it gives up when it goes.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    link: &'a Link,
    number: Option<u64>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(link: &'a Link) -> Self {
        Self { link, number: None }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.link.with(|state, wakes| {
                state.room.leave(self);
                // It may have been woken for room that it does not take.
                self.link.wake_for_room(state, wakes);
            });
        }
    }
}

impl Room {
    /// Keeps the caller's place until there is room for it.
    pub(super) fn wait(&mut self, place: &mut Place<'_>, waker: &Waker, descriptors: usize) {
        let number = *place.number.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let waker = Some(waker.clone());
        self.waiting.insert(number, Waiter { waker, descriptors });
    }

    pub(super) fn leave(&mut self, place: &mut Place<'_>) {
        if let Some(number) = place.number.take() {
            self.waiting.remove(&number);
        }
    }

    /// Wakes so many, counting those that have been woken and not looked yet.
    fn wake(&mut self, room: usize, descriptors: usize, wakes: &mut Wakes) {
        let fits = |waiter: &&mut Waiter| waiter.descriptors <= descriptors;
        for waiter in self.waiting.values_mut().filter(fits).take(room) {
            wakes.callers.extend(waiter.waker.take());
        }
    }

    pub(super) fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.callers.extend(self.waiting.values_mut().filter_map(|waiter| waiter.waker.take()));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Link {
    /// Wakes as many callers as there is room for.
    pub(super) fn wake_for_room(&self, state: &mut State, wakes: &mut Wakes) {
        if state.room.waiting.is_empty() || self.is_full(state) {
            return;
        }
        let room = state.answers.room(self.limits.unsent);
        let descriptors = self.limits.descriptors.saturating_sub(state.answers.descriptors());
        state.room.wake(room, descriptors, wakes);
    }
}
