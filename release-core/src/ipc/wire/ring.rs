//! A stream of bytes through memory that two processes share. No I/O happens here.
//!
//! The first words of the memory are three numbers: how many bytes were ever written, how many were
//! ever read, and whether the reader sleeps. The others are the ring. Both sides load and store whole
//! words atomically, so that there is no data race whatever the other process does. Each side keeps
//! its own number, and checks that of the other one before it uses it. Bytes are copied out, and
//! only then looked at.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

use crate::sys::shared_memory::SharedMemory;

/// The places of the numbers, each in cache lines of its own.
const WRITTEN: usize = 0;
const READ: usize = 16;
const ASLEEP: usize = 32;
/// The place of the first word of the ring.
const FIRST: usize = 64;

const WORD: usize = size_of::<u64>();

/// Returns the number of words for a ring of so many bytes, a power of two.
pub(crate) fn words_for(bytes: u32) -> usize {
    FIRST + usize::try_from(bytes).unwrap_or_default() / WORD
}

/// The memory of a ring.
pub(crate) trait Memory {
    /// Returns all words, always the same ones: [`words_for`] the ring's size.
    fn words(&self) -> &[AtomicU64];
}

impl Memory for SharedMemory {
    fn words(&self) -> &[AtomicU64] {
        self.words()
    }
}

/// A ring that both sides have in one process.
#[cfg(any(test, feature = "fuzzing"))]
impl Memory for std::sync::Arc<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// A number of the other side that cannot be: smaller than before, or further from this side's than
/// the ring is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadIndex;

/// Returns the part of the ring that begins at a byte, in two pieces.
fn pieces(ring: &[AtomicU64], at: u64) -> (&[AtomicU64], &[AtomicU64]) {
    let bytes = (ring.len() * WORD) as u64;
    let place = usize::try_from(at % bytes).unwrap_or_default() / WORD;
    let (end, begin) = ring.split_at(place);
    (begin, end)
}

fn offset(at: u64) -> usize {
    usize::try_from(at % WORD as u64).unwrap_or_default()
}

/// Stores bytes from the beginning of a piece. Returns those for which it is too short.
fn store<'b>(piece: &[AtomicU64], bytes: &'b [u8]) -> &'b [u8] {
    let (now, later) = bytes.split_at(bytes.len().min(piece.len() * WORD));
    let (whole, rest) = now.as_chunks::<WORD>();
    for (word, value) in piece.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*value), Relaxed);
    }
    if let (Some(word), false) = (piece.get(whole.len()), rest.is_empty()) {
        // The other bytes of the word may be old ones that the reader has not loaded yet.
        let mut value = word.load(Relaxed).to_ne_bytes();
        value[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(value), Relaxed);
    }
    later
}

/// Loads bytes from the beginning of a piece. Returns the space for which it is too short.
fn load<'b>(piece: &[AtomicU64], space: &'b mut [u8]) -> &'b mut [u8] {
    let (now, later) = space.split_at_mut(space.len().min(piece.len() * WORD));
    let (whole, rest) = now.as_chunks_mut::<WORD>();
    for (word, value) in piece.iter().zip(&mut *whole) {
        *value = word.load(Relaxed).to_ne_bytes();
    }
    if let (Some(word), false) = (piece.get(whole.len()), rest.is_empty()) {
        let value = word.load(Relaxed).to_ne_bytes();
        rest.copy_from_slice(&value[..rest.len()]);
    }
    later
}

/// The side that writes.
#[derive(Debug)]
pub(crate) struct RingWriter<M> {
    memory: M,
    written: u64,
    /// The reader's number as it was seen last.
    read: u64,
}

impl<M: Memory> RingWriter<M> {
    pub(crate) fn new(memory: M) -> Self {
        Self { memory, written: 0, read: 0 }
    }

    /// Continues at these numbers. Returns `None` if they are impossible.
    pub(crate) fn at(memory: M, [written, read]: [u64; 2]) -> Option<Self> {
        let writer = Self { memory, written, read };
        (written.wrapping_sub(read) <= writer.size() as u64).then_some(writer)
    }

    /// Returns the numbers at which another writer of this ring may continue.
    pub(crate) fn numbers(&self) -> [u64; 2] {
        [self.written, self.read]
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the size of the ring in bytes.
    pub(crate) fn size(&self) -> usize {
        self.ring().len() * WORD
    }

    fn ring(&self) -> &[AtomicU64] {
        &self.memory.words()[FIRST..]
    }

    /// Returns how many bytes may be written now.
    pub(crate) fn room(&mut self) -> Result<usize, BadIndex> {
        // Pairs with the reader's store: it has loaded what is overwritten now.
        let read = self.memory.words()[READ].load(Acquire);
        if read.wrapping_sub(self.read) > self.written.wrapping_sub(self.read) {
            return Err(BadIndex);
        }
        self.read = read;
        let waiting = usize::try_from(self.written.wrapping_sub(read)).map_err(|_| BadIndex)?;
        Ok(self.size() - waiting)
    }

    /// Adds bytes, at most as many as there was [`room`](Self::room) for. The reader does not see
    /// them yet.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (begin, end) = pieces(self.ring(), self.written);
        let (offset, mut rest) = (offset(self.written), bytes);
        if offset > 0 {
            // The rest of a word that has been begun. The reader knows its beginning, and may be
            // loading it now: it stays the same.
            let (first, later) = bytes.split_at(bytes.len().min(WORD - offset));
            let mut value = begin[0].load(Relaxed).to_ne_bytes();
            value[offset..offset + first.len()].copy_from_slice(first);
            begin[0].store(u64::from_ne_bytes(value), Relaxed);
            rest = later;
        }
        rest = store(&begin[usize::from(offset > 0)..], rest);
        rest = store(end, rest);
        // The first bytes of the word in which this began.
        store(&begin[..1], rest);
        self.written = self.written.wrapping_add(bytes.len() as u64);
    }

    /// Shows the reader all bytes. Returns true if it sleeps, and must be woken.
    #[must_use]
    pub(crate) fn publish(&mut self) -> bool {
        let words = self.memory.words();
        words[WRITTEN].store(self.written, Release);
        // Either this side sees that the reader sleeps, or the reader sees the bytes before it does.
        fence(SeqCst);
        words[ASLEEP].load(Relaxed) != 0 && words[ASLEEP].swap(0, Relaxed) != 0
    }
}

/// The side that reads. It has made the memory.
#[derive(Debug)]
pub(crate) struct RingReader<M> {
    memory: M,
    read: u64,
    /// The writer's number as it was seen last.
    written: u64,
    is_asleep: bool,
}

impl<M: Memory> RingReader<M> {
    pub(crate) fn new(memory: M) -> Self {
        Self { memory, read: 0, written: 0, is_asleep: false }
    }

    /// Continues at these numbers. Returns `None` if they are impossible.
    pub(crate) fn at(memory: M, [written, read]: [u64; 2]) -> Option<Self> {
        // The reader that was there before may have slept.
        let reader = Self { memory, read, written, is_asleep: true };
        (written.wrapping_sub(read) <= reader.size() as u64).then_some(reader)
    }

    /// Returns the numbers at which another reader of this ring may continue.
    pub(crate) fn numbers(&self) -> [u64; 2] {
        [self.written, self.read]
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    fn size(&self) -> usize {
        self.ring().len() * WORD
    }

    fn ring(&self) -> &[AtomicU64] {
        &self.memory.words()[FIRST..]
    }

    /// Returns the number of bytes that wait.
    pub(crate) fn waiting(&mut self) -> Result<usize, BadIndex> {
        // Pairs with the writer's store: the bytes are there.
        let written = self.memory.words()[WRITTEN].load(Acquire);
        let before = self.written.wrapping_sub(self.read);
        let now = written.wrapping_sub(self.read);
        if now < before || now > self.size() as u64 {
            return Err(BadIndex);
        }
        self.written = written;
        usize::try_from(now).map_err(|_| BadIndex)
    }

    /// Copies bytes out, as many as wait and fit. Returns their number.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Result<usize, BadIndex> {
        let count = self.waiting()?.min(space.len());
        if count == 0 {
            return Ok(0);
        }
        if std::mem::take(&mut self.is_asleep) {
            self.memory.words()[ASLEEP].store(0, Relaxed);
        }
        let (begin, end) = pieces(self.ring(), self.read);
        let (offset, mut rest) = (offset(self.read), &mut space[..count]);
        if offset > 0 {
            let first;
            (first, rest) = rest.split_at_mut(count.min(WORD - offset));
            let value = begin[0].load(Relaxed).to_ne_bytes();
            first.copy_from_slice(&value[offset..offset + first.len()]);
        }
        rest = load(&begin[usize::from(offset > 0)..], rest);
        rest = load(end, rest);
        load(&begin[..1], rest);
        self.read = self.read.wrapping_add(count as u64);
        self.memory.words()[READ].store(self.read, Release);
        Ok(count)
    }

    /// Tells the writer that this side sleeps until it is woken. Returns false if bytes wait.
    pub(crate) fn fall_asleep(&mut self) -> Result<bool, BadIndex> {
        self.is_asleep = true;
        self.memory.words()[ASLEEP].store(1, Relaxed);
        fence(SeqCst);
        Ok(self.waiting()? == 0)
    }
}

#[cfg(test)]
mod tests;
