//! Every order in which the steps of [`publish`](super::RingWriter::publish), of
//! [`read`](super::RingReader::read) and [`fall_asleep`](super::RingReader::fall_asleep), and of
//! waiting for the bell can happen, on processors that delay stores.

use std::collections::{HashSet, VecDeque};

/// How many times the writer publishes.
const MESSAGES: u8 = 3;

/// A number in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Written,
    Asleep,
}

/// What a version of the protocol leaves out.
#[derive(Clone, Copy, Debug, Default)]
struct Without {
    writers_fence: bool,
    readers_fence: bool,
    second_look: bool,
}

/// The stores of one processor that the other one does not see yet.
type Buffer = VecDeque<(Place, u8)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writing {
    Store,
    Fence,
    Load,
    Swap,
    Ring,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    Look,
    SayAsleep,
    Fence,
    LookAgain,
    Sleep,
    Silence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    written: u8,
    asleep: u8,
    rings: bool,
    /// An edge that a runtime has not reported yet.
    event: bool,
    writer: Writing,
    published: u8,
    writers: Buffer,
    reader: Reading,
    read: u8,
    readers: Buffer,
}

impl State {
    fn new() -> Self {
        Self {
            written: 0,
            asleep: 0,
            rings: false,
            event: false,
            writer: Writing::Store,
            published: 0,
            writers: Buffer::new(),
            reader: Reading::Look,
            read: 0,
            readers: Buffer::new(),
        }
    }

    fn set(&mut self, (place, value): (Place, u8)) {
        match place {
            Place::Written => self.written = value,
            Place::Asleep => self.asleep = value,
        }
    }

    fn get(&self, place: Place, own: &Buffer) -> u8 {
        let stored = own.iter().rev().find(|(stored, _)| *stored == place);
        let seen = if place == Place::Written { self.written } else { self.asleep };
        stored.map_or(seen, |(_, value)| *value)
    }

    fn drain(&mut self, own: fn(&mut Self) -> &mut Buffer) {
        while let Some(store) = own(self).pop_front() {
            self.set(store);
        }
    }

    fn write(mut self, without: Without) -> Option<Self> {
        self.writer = match self.writer {
            Writing::Store if self.published == MESSAGES => Writing::Done,
            Writing::Store => {
                self.published += 1;
                self.writers.push_back((Place::Written, self.published));
                Writing::Fence
            }
            Writing::Fence => {
                if !without.writers_fence {
                    self.drain(|state| &mut state.writers);
                }
                Writing::Load
            }
            Writing::Load if self.get(Place::Asleep, &self.writers) == 0 => Writing::Store,
            Writing::Load => Writing::Swap,
            Writing::Swap => {
                self.drain(|state| &mut state.writers);
                let slept = std::mem::take(&mut self.asleep);
                if slept == 0 { Writing::Store } else { Writing::Ring }
            }
            Writing::Ring => {
                (self.rings, self.event) = (true, true);
                Writing::Store
            }
            Writing::Done => return None,
        };
        Some(self)
    }

    fn read(mut self, without: Without, is_edge: bool) -> Option<Self> {
        let written = self.get(Place::Written, &self.readers);
        self.reader = match self.reader {
            Reading::Look if written > self.read => {
                self.read = written;
                self.readers.push_back((Place::Asleep, 0));
                Reading::Look
            }
            Reading::Look => Reading::SayAsleep,
            Reading::SayAsleep => {
                self.readers.push_back((Place::Asleep, 1));
                Reading::Fence
            }
            Reading::Fence => {
                if !without.readers_fence {
                    self.drain(|state| &mut state.readers);
                }
                Reading::LookAgain
            }
            Reading::LookAgain if written > self.read && !without.second_look => Reading::Look,
            Reading::LookAgain => Reading::Sleep,
            Reading::Sleep if is_edge && !std::mem::take(&mut self.event) => return None,
            Reading::Sleep if !is_edge && !self.rings => return None,
            Reading::Sleep => Reading::Silence,
            Reading::Silence => {
                self.rings = false;
                Reading::Look
            }
        };
        Some(self)
    }

    /// A store reaches the other processor.
    fn arrive(mut self, own: fn(&mut Self) -> &mut Buffer) -> Option<Self> {
        let store = own(&mut self).pop_front()?;
        self.set(store);
        Some(self)
    }
}

/// Returns a state in which nothing can happen any more, although bytes were not read.
fn lost(without: Without, is_edge: bool) -> Option<State> {
    let mut seen = HashSet::from([State::new()]);
    let mut open = vec![State::new()];
    while let Some(state) = open.pop() {
        let next = [
            state.clone().write(without),
            state.clone().read(without, is_edge),
            state.clone().arrive(|state| &mut state.writers),
            state.clone().arrive(|state| &mut state.readers),
        ];
        if next.iter().all(Option::is_none) && state.read < MESSAGES {
            return Some(state);
        }
        for state in next.into_iter().flatten() {
            if seen.insert(state.clone()) {
                open.push(state);
            }
        }
    }
    assert!(seen.len() > 100, "{}", seen.len());
    None
}

#[test]
fn no_wake_up_is_lost_with_runtimes_of_either_kind() {
    for is_edge in [false, true] {
        assert_eq!(lost(Without::default(), is_edge), None);
    }
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    for is_edge in [false, true] {
        for without in [
            Without { writers_fence: true, ..Without::default() },
            Without { readers_fence: true, ..Without::default() },
            Without { second_look: true, ..Without::default() },
        ] {
            assert!(lost(without, is_edge).is_some(), "{without:?} is not missed");
        }
    }
}
