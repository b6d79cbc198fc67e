//! Which requests are unanswered, and which answers wait for their asker.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use super::header::Number;

/// What the peer said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Given(&'a [u8]),
    /// Its reason, as UTF-8 if it is an honest peer.
    Refused(&'a [u8]),
}

impl<'a> Answer<'a> {
    pub(crate) fn new(body: &'a [u8], refused: bool) -> Self {
        if refused {
            Self::Refused(body)
        } else {
            Self::Given(body)
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    /// The body, and whether it is a refusal.
    answer: Option<(Vec<u8>, bool)>,
}

#[derive(Debug, Default)]
pub(crate) struct Answers {
    slots: HashMap<Number, Slot>,
    /// For answers without numbers: the requests in their order, those given up included.
    in_turn: VecDeque<Number>,
    last: Number,
}

impl Answers {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.slots.len() == 1
    }

    /// A number that no unanswered request has.
    pub(crate) fn next_number(&mut self) -> Number {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.slots.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// The request has been queued.
    pub(crate) fn expect(&mut self, number: Number, in_turn: bool) {
        self.slots.insert(number, Slot::default());
        if in_turn {
            self.in_turn.push_back(number);
        }
    }

    pub(crate) fn wait(&mut self, number: Number, waker: &Waker) {
        if let Some(slot) = self.slots.get_mut(&number) {
            match &mut slot.waker {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
        }
    }

    pub(crate) fn is_awaited(&self, number: Number) -> bool {
        self.slots
            .get(&number)
            .is_some_and(|slot| slot.answer.is_none())
    }

    pub(crate) fn delivered(&self, number: Number) -> Option<Answer<'_>> {
        let (body, refused) = self.slots.get(&number)?.answer.as_ref()?;
        Some(Answer::new(body, *refused))
    }

    /// Whose answer the next frame is, when answers come in the order of the requests.
    ///
    /// Takes it out of the order: the caller delivers or drops it.
    pub(crate) fn first_in_turn(&mut self) -> Option<Number> {
        self.in_turn.pop_front()
    }

    /// Keeps the answer for its asker, whose waker comes back; one that nobody awaits is dropped.
    pub(crate) fn deliver(&mut self, number: Number, answer: Answer<'_>) -> Option<Waker> {
        let slot = self.slots.get_mut(&number)?;
        slot.answer.get_or_insert_with(|| match answer {
            Answer::Given(body) => (body.to_vec(), false),
            Answer::Refused(body) => (body.to_vec(), true),
        });
        slot.waker.take()
    }

    pub(crate) fn forget(&mut self, number: Number) {
        self.slots.remove(&number);
    }

    pub(crate) fn wake_all(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.slots.values_mut().filter_map(|slot| slot.waker.take()));
    }
}
