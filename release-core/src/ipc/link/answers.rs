//! The unanswered requests, and answers that wait for their callers.

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;

use crate::ipc::wire::body::{Body, Size};
use crate::ipc::wire::header::RequestNumber;
use crate::ipc::wire::limits::{MAX_IN_FLIGHT, UNTAKEN_DESCRIPTORS};
use crate::sys::untrusted::Untrusted;

/// The low bits of a request number are its index in the table. The other bits count the uses of
/// this slot, so that a late answer finds an empty slot or another number.
const SLOT_BITS: u32 = MAX_IN_FLIGHT.trailing_zeros();

/// The answer of the peer to a request.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Given(Body<'a>),
    /// The reason of a refusal, in UTF-8 if the peer is honest.
    Refused(&'a [u8]),
    /// The reason why the request does not decode, in UTF-8 if the peer is honest.
    NotUnderstood(&'a [u8]),
}

/// The kind of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnswerKind {
    Given,
    Refused,
    NotUnderstood,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(body: Body<'a>, kind: AnswerKind) -> Self {
        match kind {
            AnswerKind::Given => Self::Given(body),
            AnswerKind::Refused => Self::Refused(body.bytes),
            AnswerKind::NotUnderstood => Self::NotUnderstood(body.bytes),
        }
    }
}

/// An answer that waits for its caller.
#[derive(Debug)]
struct StoredAnswer {
    bytes: Vec<u8>,
    descriptors: Vec<Untrusted>,
    kind: AnswerKind,
    /// Whether its descriptors found no room in this process.
    is_lost: bool,
}

impl StoredAnswer {
    /// Stores an answer with all its descriptors, or without any if there is no room for them. Returns
    /// whether descriptors were closed.
    fn new(answer: Answer<'_>, room: usize) -> (Self, bool) {
        let without = |bytes| Body { bytes, ..Body::default() };
        let (body, kind) = match answer {
            Answer::Given(body) => (body, AnswerKind::Given),
            Answer::Refused(why) => (without(why), AnswerKind::Refused),
            Answer::NotUnderstood(why) => (without(why), AnswerKind::NotUnderstood),
        };
        let (is_lost, mut descriptors) = (body.is_lost, body.descriptors);
        let has_closed = descriptors.len() > room;
        if has_closed {
            descriptors.clear();
        }
        (Self { bytes: body.bytes.to_vec(), descriptors, kind, is_lost }, has_closed)
    }
}

/// The result of delivering an answer.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// It is stored for its caller, which has this waker; without its descriptors if there was no room.
    Awaited { waker: Option<Waker>, has_closed: bool },
    /// It was dropped, because no call waits for it.
    Unawaited,
}

#[derive(Debug, Default)]
struct Slot {
    /// The number of the current or last request in this slot.
    number: RequestNumber,
    is_awaited: bool,
    /// The size of the request.
    size: Size,
    waker: Option<Waker>,
    answer: Option<StoredAnswer>,
}

#[derive(Debug, Default)]
pub(crate) struct Answers {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// For answers without numbers: the requests in order, including cancelled ones.
    in_turn: VecDeque<RequestNumber>,
    /// The size of all unanswered requests together.
    size: Size,
    /// Number of descriptors in stored answers.
    untaken: usize,
}

impl Answers {
    /// Returns true if another request may be sent. All unanswered requests together may have up to
    /// `bytes` bytes.
    ///
    /// The peer stores requests that it cannot answer yet and continues reading, so that two sides
    /// never wait for each other. This limit bounds the memory for them.
    pub(crate) fn have_room(&self, bytes: usize) -> bool {
        let places = !self.free.is_empty() || self.slots.len() < MAX_IN_FLIGHT;
        places && self.size.bytes <= bytes
    }

    /// Returns the number of further requests that fit, if they have the average length.
    pub(crate) fn room(&self, bytes: usize) -> usize {
        if !self.have_room(bytes) {
            return 0;
        }
        let in_flight = self.slots.len() - self.free.len();
        let places = MAX_IN_FLIGHT - in_flight;
        let average = self.size.bytes.checked_div(in_flight).unwrap_or_default();
        let lengths = (bytes - self.size.bytes).checked_div(average);
        lengths.map_or(places, |lengths| places.min(lengths + 1))
    }

    /// Counts the descriptors of all unanswered requests.
    pub(crate) fn descriptors(&self) -> usize {
        self.size.descriptors
    }

    /// Returns true if exactly one request is unanswered.
    pub(crate) fn is_alone(&self) -> bool {
        self.slots.len() - self.free.len() == 1
    }

    /// Returns a number for a new request. The table must not be full.
    pub(crate) fn expect(&mut self, in_turn: bool) -> RequestNumber {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.slots.len();
            let number = RequestNumber::try_from(place).unwrap_or_default();
            self.slots.push(Slot { number, ..Slot::default() });
            place
        });
        let slot = &mut self.slots[place];
        slot.number = slot.number.wrapping_add(1 << SLOT_BITS);
        slot.is_awaited = true;
        if in_turn {
            self.in_turn.push_back(slot.number);
        }
        slot.number
    }

    fn slot(&mut self, number: RequestNumber) -> Option<&mut Slot> {
        let place = number & ((1 << SLOT_BITS) - 1);
        let slot = self.slots.get_mut(usize::try_from(place).ok()?)?;
        (slot.is_awaited && slot.number == number).then_some(slot)
    }

    pub(crate) fn wait(&mut self, number: RequestNumber, waker: &Waker) {
        if let Some(slot) = self.slot(number) {
            match &mut slot.waker {
                Some(known) => known.clone_from(waker),
                unknown => *unknown = Some(waker.clone()),
            }
        }
    }

    pub(crate) fn is_unanswered(&mut self, number: RequestNumber) -> bool {
        self.slot(number).is_some_and(|slot| slot.answer.is_none())
    }

    pub(crate) fn delivered(&mut self, number: RequestNumber) -> Option<Answer<'_>> {
        let descriptors = mem::take(&mut self.slot(number)?.answer.as_mut()?.descriptors);
        self.untaken -= descriptors.len();
        let StoredAnswer { bytes, kind, is_lost, .. } = self.slot(number)?.answer.as_ref()?;
        Some(Answer::new(Body { bytes, descriptors, is_lost: *is_lost }, *kind))
    }

    /// Sets the size of a queued request.
    pub(crate) fn set_size(&mut self, number: RequestNumber, size: Size) {
        self.size.bytes += size.bytes;
        self.size.descriptors += size.descriptors;
        if let Some(slot) = self.slot(number) {
            slot.size = size;
        }
    }

    /// Removes a request that was not queued.
    pub(crate) fn take_back(&mut self, number: RequestNumber) {
        self.forget(number);
        if self.in_turn.back() == Some(&number) {
            self.in_turn.pop_back();
        }
    }

    /// Returns the request that the next frame answers, if answers come in the order of the
    /// requests.
    pub(crate) fn first_in_turn(&self) -> Option<RequestNumber> {
        self.in_turn.front().copied()
    }

    /// Removes the request that the last frame answered.
    pub(crate) fn first_has_come(&mut self) {
        self.in_turn.pop_front();
    }

    /// Stores an answer for its caller, or drops it if no call waits for it.
    pub(crate) fn deliver(&mut self, number: RequestNumber, answer: Answer<'_>) -> Delivery {
        let untaken = self.untaken;
        let Some(slot) = self.slot(number).filter(|slot| slot.answer.is_none()) else {
            return Delivery::Unawaited;
        };
        let waker = slot.waker.take();
        let (kept, has_closed) = StoredAnswer::new(answer, UNTAKEN_DESCRIPTORS - untaken);
        let descriptors = kept.descriptors.len();
        slot.answer = Some(kept);
        self.untaken += descriptors;
        Delivery::Awaited { waker, has_closed }
    }

    /// Removes a request whose caller has its answer. If it was the only one, the caller's waker stays:
    /// a task that asks one question after the other has the same waker again.
    pub(crate) fn take(&mut self, number: RequestNumber) {
        let waker = self.slot(number).map(|slot| slot.waker.take()).filter(|_| self.is_alone());
        self.forget(number);
        let place = usize::try_from(number & ((1 << SLOT_BITS) - 1)).unwrap_or_default();
        if let (Some(waker), Some(slot)) = (waker, self.slots.get_mut(place)) {
            slot.waker = waker;
        }
    }

    /// Removes a request whose caller was dropped.
    pub(crate) fn forget(&mut self, number: RequestNumber) {
        if let Some(slot) = self.slot(number) {
            (slot.is_awaited, slot.waker) = (false, None);
            let (size, kept) = (mem::take(&mut slot.size), slot.answer.take());
            self.size.bytes -= size.bytes;
            self.size.descriptors -= size.descriptors;
            self.untaken -= kept.map_or(0, |kept| kept.descriptors.len());
            let place = number & ((1 << SLOT_BITS) - 1);
            self.free.extend(usize::try_from(place));
        }
    }

    /// Returns the requests without an answer.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = RequestNumber> {
        let waits = |slot: &&Slot| slot.is_awaited && slot.answer.is_none();
        self.slots.iter().filter(waits).map(|slot| slot.number)
    }

    /// Returns the last number of each slot.
    pub(crate) fn numbers(&self) -> Vec<RequestNumber> {
        self.slots.iter().map(|slot| slot.number).collect()
    }

    /// Creates a table that continues these numbers. Returns `None` if they are invalid.
    pub(crate) fn after(numbers: Vec<RequestNumber>) -> Option<Self> {
        let place_of =
            |number: RequestNumber| usize::try_from(number & ((1 << SLOT_BITS) - 1)).ok();
        let in_place = |(place, number): (usize, &RequestNumber)| place_of(*number) == Some(place);
        if !numbers.iter().enumerate().all(in_place) {
            return None;
        }
        let free = (0..numbers.len()).collect();
        let slots = numbers.into_iter().map(|number| Slot { number, ..Slot::default() }).collect();
        Some(Self { slots, free, ..Self::default() })
    }

    /// Takes the wakers of all callers.
    pub(crate) fn wakers(&mut self) -> impl Iterator<Item = Waker> {
        let awaited = |slot: &mut Slot| slot.waker.take().filter(|_| slot.is_awaited);
        self.slots.iter_mut().filter_map(awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: &[u8]) -> Body<'_> {
        Body { bytes, ..Body::default() }
    }

    #[test]
    fn a_late_answer_is_nobodys_even_when_its_place_is_taken_again() {
        let mut answers = Answers::default();
        let first = answers.expect(false);
        answers.forget(first);
        let second = answers.expect(false);
        assert_ne!(first, second);
        answers.deliver(first, Answer::new(bytes(b"late"), AnswerKind::Given));
        assert!(answers.is_unanswered(second));
        answers.deliver(second, Answer::Refused(b"no"));
        assert!(matches!(answers.delivered(second), Some(Answer::Refused(b"no"))));
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
        answers.set_size(number, Size { bytes: 100, descriptors: 3 });
        assert_eq!(answers.descriptors(), 3);
        assert!(answers.have_room(100) && !answers.have_room(99));
        answers.forget(number);
        answers.forget(number);
        assert!(answers.have_room(0));
        assert_eq!(answers.descriptors(), 0);
    }

    #[test]
    fn descriptors_are_given_away_once_and_counted_while_they_wait() {
        let mut answers = Answers::default();
        let numbers: Vec<_> = (0..5).map(|_| answers.expect(false)).collect();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let deliver = |answers: &mut Answers, number| {
            let descriptors = (0..253)
                .map(|_| std::os::fd::OwnedFd::from(writer.try_clone().unwrap()).into())
                .collect();
            answers.deliver(
                number,
                Answer::new(Body { descriptors, ..Body::default() }, AnswerKind::Given),
            );
        };
        for number in &numbers {
            deliver(&mut answers, *number);
            deliver(&mut answers, *number);
        }
        let taken = |answers: &mut Answers, number| match answers.delivered(number) {
            Some(Answer::Given(body)) => body.descriptors.len(),
            other => panic!("{other:?}"),
        };
        let counts: Vec<_> = numbers.iter().map(|number| taken(&mut answers, *number)).collect();
        assert_eq!(counts, [253, 253, 253, 253, 0], "the last one found no room");
        assert_eq!(taken(&mut answers, numbers[0]), 0);
        answers.forget(numbers[0]);
        let number = answers.expect(false);
        deliver(&mut answers, number);
        answers.forget(number);
        assert_eq!(answers.untaken, 0);
        drop(writer);
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn answers_to_numbers_never_given_are_dropped() {
        let mut answers = Answers::default();
        for number in [0, 1, 1023, 1024, u32::MAX] {
            let delivery = answers.deliver(number, Answer::Refused(b""));
            assert!(matches!(delivery, Delivery::Unawaited));
            answers.forget(number);
        }
    }
}
