//! Which requests are unanswered, and which answers wait for their asker.

use std::collections::VecDeque;
use std::task::Waker;

use super::header::Number;

/// How many requests of one side may be unanswered at a time.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// The low bits of a request's number are its place in the table, the rest is how often the place
/// was used before: a late answer finds the place empty or under another number.
const PLACE_BITS: u32 = MAX_IN_FLIGHT.trailing_zeros();

/// What the peer said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Given(&'a [u8]),
    /// Its reason, as UTF-8 if it is an honest peer.
    Refused(&'a [u8]),
}

impl<'a> Answer<'a> {
    pub(crate) fn new(body: &'a [u8], refused: bool) -> Self {
        if refused { Self::Refused(body) } else { Self::Given(body) }
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// The number of the request that has this place, or had it last.
    number: Number,
    is_awaited: bool,
    /// How many bytes the request has.
    size: usize,
    waker: Option<Waker>,
    /// The body, and whether it is a refusal.
    answer: Option<(Vec<u8>, bool)>,
}

#[derive(Debug, Default)]
pub(crate) struct Answers {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// For answers without numbers: the requests in their order, those given up included.
    in_turn: VecDeque<Number>,
    /// The bytes of all unanswered requests.
    bytes: usize,
}

impl Answers {
    /// Whether one more request may be sent, when unanswered ones may have so many bytes together.
    ///
    /// The peer keeps requests that it cannot answer yet and goes on reading, so that two sides
    /// that ask each other at once never wait for each other; this is what bounds its memory.
    pub(crate) fn have_room(&self, bytes: usize) -> bool {
        let places = !self.free.is_empty() || self.slots.len() < MAX_IN_FLIGHT;
        places && self.bytes <= bytes
    }

    /// Whether exactly one request is unanswered.
    pub(crate) fn is_alone(&self) -> bool {
        self.slots.len() - self.free.len() == 1
    }

    /// A number for one more request; the table is not full.
    pub(crate) fn expect(&mut self, in_turn: bool) -> Number {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.slots.len();
            let number = Number::try_from(place).unwrap_or_default();
            self.slots.push(Slot { number, ..Slot::default() });
            place
        });
        let slot = &mut self.slots[place];
        slot.number = slot.number.wrapping_add(1 << PLACE_BITS);
        slot.is_awaited = true;
        if in_turn {
            self.in_turn.push_back(slot.number);
        }
        slot.number
    }

    fn slot(&mut self, number: Number) -> Option<&mut Slot> {
        let place = number & ((1 << PLACE_BITS) - 1);
        let slot = self.slots.get_mut(usize::try_from(place).ok()?)?;
        (slot.is_awaited && slot.number == number).then_some(slot)
    }

    pub(crate) fn wait(&mut self, number: Number, waker: &Waker) {
        if let Some(slot) = self.slot(number) {
            match &mut slot.waker {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
        }
    }

    pub(crate) fn is_unanswered(&mut self, number: Number) -> bool {
        self.slot(number).is_some_and(|slot| slot.answer.is_none())
    }

    pub(crate) fn delivered(&mut self, number: Number) -> Option<Answer<'_>> {
        let (body, refused) = self.slot(number)?.answer.as_ref()?;
        Some(Answer::new(body, *refused))
    }

    /// The request has been queued and has so many bytes.
    pub(crate) fn set_size(&mut self, number: Number, size: usize) {
        self.bytes += size;
        if let Some(slot) = self.slot(number) {
            slot.size = size;
        }
    }

    /// The request could not be queued after all.
    pub(crate) fn take_back(&mut self, number: Number) {
        self.forget(number);
        if self.in_turn.back() == Some(&number) {
            self.in_turn.pop_back();
        }
    }

    /// Whose answer the next frame is, when answers come in the order of the requests.
    pub(crate) fn first_in_turn(&self) -> Option<Number> {
        self.in_turn.front().copied()
    }

    /// That frame has been dealt with.
    pub(crate) fn first_has_come(&mut self) {
        self.in_turn.pop_front();
    }

    /// Keeps the answer for its asker, whose waker comes back; one that nobody awaits is dropped.
    pub(crate) fn deliver(&mut self, number: Number, answer: Answer<'_>) -> Option<Waker> {
        let slot = self.slot(number)?;
        slot.answer.get_or_insert_with(|| match answer {
            Answer::Given(body) => (body.to_vec(), false),
            Answer::Refused(body) => (body.to_vec(), true),
        });
        slot.waker.take()
    }

    /// The asker has its answer, or wants it no more.
    pub(crate) fn forget(&mut self, number: Number) {
        if let Some(slot) = self.slot(number) {
            (slot.is_awaited, slot.waker, slot.answer) = (false, None, None);
            self.bytes -= std::mem::take(&mut slot.size);
            let place = number & ((1 << PLACE_BITS) - 1);
            self.free.extend(usize::try_from(place));
        }
    }

    pub(crate) fn wake_all(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.slots.iter_mut().filter_map(|slot| slot.waker.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_is_nobodys_even_when_its_place_is_taken_again() {
        let mut answers = Answers::default();
        let first = answers.expect(false);
        answers.forget(first);
        let second = answers.expect(false);
        assert_ne!(first, second);
        answers.deliver(first, Answer::Given(b"late"));
        assert!(answers.is_unanswered(second));
        answers.deliver(second, Answer::Refused(b"no"));
        assert_eq!(answers.delivered(second), Some(Answer::Refused(b"no")));
    }

    #[test]
    fn the_table_has_its_limit_and_numbers_are_unique() {
        let mut answers = Answers::default();
        let mut numbers: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| answers.expect(false)).collect();
        assert!(!answers.have_room(0));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), MAX_IN_FLIGHT);
        answers.forget(numbers[7]);
        assert!(answers.have_room(0));
    }

    #[test]
    fn bytes_are_counted_until_the_answer_has_come_or_is_given_up() {
        let mut answers = Answers::default();
        let number = answers.expect(false);
        answers.set_size(number, 100);
        assert!(answers.have_room(100) && !answers.have_room(99));
        answers.forget(number);
        answers.forget(number);
        assert!(answers.have_room(0));
    }

    #[test]
    fn answers_to_numbers_never_given_are_dropped() {
        let mut answers = Answers::default();
        for number in [0, 1, 1023, 1024, u32::MAX] {
            assert!(answers.deliver(number, Answer::Given(b"")).is_none());
            answers.forget(number);
        }
    }
}
