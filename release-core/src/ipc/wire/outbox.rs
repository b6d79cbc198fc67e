//! The queue of encoded frames and their descriptors, without I/O.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use byteorder::{BigEndian, ByteOrder};

use super::descriptor::Descriptor;
use super::frame::{FrameTooLong, HEADER, KEPT_CAPACITY, LARGE_CAPACITY};
use crate::sys::untrusted::Untrusted;

/// The queue of encoded frames for the socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    sent: usize,
    /// The end of the last complete frame. Remains of an encoder that panicked may follow.
    complete: usize,
    last_length: usize,
    limit: u32,
    /// The frames with descriptors, in order.
    attached: VecDeque<Attachment>,
    /// The end of the last frame that goes over the socket: frames behind it go another way.
    turn: Option<usize>,
}

/// Descriptors that are sent with the first byte of a frame.
#[derive(Debug)]
struct Attachment {
    /// The position of the frame in the buffer.
    frame: Range<usize>,
    descriptors: Vec<Descriptor>,
}

impl Outbox {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            buffer: Vec::new(),
            sent: 0,
            complete: 0,
            last_length: 0,
            limit,
            attached: VecDeque::new(),
            turn: None,
        }
    }

    /// Appends a frame, whose payload `encode` writes. Returns its value. Appends nothing after an error.
    #[inline]
    pub(crate) fn push<T, E: From<FrameTooLong>>(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.remove_sent();
        let before = self.complete;
        self.buffer.truncate(before);
        self.buffer.extend_from_slice(&[0; HEADER]);
        let payload = self.buffer.len();
        let outcome = encode(&mut self.buffer).and_then(|value| {
            let length = self.buffer.len().saturating_sub(payload);
            let too_long = FrameTooLong { length: length as u64, limit: self.limit };
            let length = u32::try_from(length).map_err(|_| too_long)?;
            if length > self.limit {
                return Err(too_long.into());
            }
            BigEndian::write_u32(&mut self.buffer[before..payload], length);
            Ok(value)
        });
        if outcome.is_err() {
            self.buffer.truncate(before);
        }
        self.complete = self.buffer.len();
        self.last_length = self.complete - before;
        outcome
    }

    /// Removes the sent bytes if they are the larger part, so that the buffer does not grow with a
    /// peer that never reads everything. The rest of one large frame is not moved for each write.
    #[inline]
    fn remove_sent(&mut self) {
        if self.sent <= KEPT_CAPACITY / 4 || self.sent * 2 <= self.buffer.len() {
            return;
        }
        self.buffer.drain(..self.sent);
        for Attachment { frame, .. } in &mut self.attached {
            *frame = frame.start - self.sent..frame.end - self.sent;
        }
        self.turn = self.turn.map(|turn| turn - self.sent);
        (self.sent, self.complete) = (0, self.complete - self.sent);
    }

    /// Sets the limit for further frames.
    pub(crate) fn set_limit(&mut self, bytes: u32) {
        self.limit = bytes;
    }

    /// Attaches descriptors to the last frame.
    #[inline]
    pub(crate) fn attach(&mut self, descriptors: Vec<Descriptor>) {
        if !descriptors.is_empty() {
            let frame = self.complete - self.last_length..self.complete;
            self.attached.push_back(Attachment { frame, descriptors });
        }
    }

    /// Removes the last frame. Nothing may have been sent since it was appended.
    pub(crate) fn take_back(&mut self) {
        self.complete -= std::mem::take(&mut self.last_length);
        while self.attached.back().is_some_and(|last| last.frame.start >= self.complete) {
            self.attached.pop_back();
        }
    }

    /// Returns the length of the last frame in bytes.
    pub(crate) fn last_length(&self) -> usize {
        self.last_length
    }

    /// Returns the bytes that are not sent yet.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.buffer[self.sent..self.complete]
    }

    /// Returns the number of bytes that are not sent yet.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.complete - self.sent
    }

    /// Returns the bytes and descriptors of the next write.
    ///
    /// A write with descriptors contains exactly their frame, so that the receiver knows the frame
    /// to which they belong.
    pub(crate) fn next(&self) -> (&[u8], &[Descriptor]) {
        let end = self.turn.unwrap_or(self.complete);
        match self.attached.front() {
            Some(first) if first.frame.start == self.sent => {
                (&self.buffer[first.frame.clone()], &first.descriptors)
            }
            Some(first) => (&self.buffer[self.sent..first.frame.start.min(end)], &[]),
            None => (&self.buffer[self.sent..end], &[]),
        }
    }

    /// Returns the total length of the first frames, without descriptors, that have at most `most`
    /// bytes together. No part of the first one may have been sent.
    pub(crate) fn whole_frames(&self, most: usize) -> usize {
        let end = self.attached.front().map_or(self.complete, |first| first.frame.start);
        let frames = &self.buffer[self.sent..end];
        let mut total = 0;
        while let Some(header) = frames.get(total..total + HEADER) {
            let length = usize::try_from(BigEndian::read_u32(header)).unwrap_or(usize::MAX);
            let longer = total.saturating_add(HEADER).saturating_add(length);
            if longer > most {
                break;
            }
            total = longer;
        }
        total
    }

    /// Appends an empty frame, after which frames go another way.
    pub(crate) fn turn(&mut self) {
        self.buffer.truncate(self.complete);
        self.buffer.extend_from_slice(&[0; HEADER]);
        self.complete = self.buffer.len();
        self.turn = Some(self.complete);
    }

    /// Returns true until the frame of [`turn`](Self::turn) is sent.
    pub(crate) fn is_before_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Returns whether descriptors wait to be sent.
    pub(crate) fn has_descriptors(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Closes the descriptors that were not sent, at the end of the connection.
    pub(crate) fn close_descriptors(&mut self) {
        self.attached.clear();
    }

    /// Removes bytes of [`unsent`](Self::unsent) that have been sent.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent += count;
        self.turn = self.turn.filter(|turn| *turn > self.sent);
        while self.attached.front().is_some_and(|first| first.frame.start < self.sent) {
            self.attached.pop_front();
        }
        if self.sent >= self.complete {
            (self.sent, self.complete) = (0, 0);
            self.buffer.clear();
            // The memory of a backlog or of a very large frame is freed.
            let kept =
                if self.last_length < KEPT_CAPACITY / 4 { KEPT_CAPACITY } else { LARGE_CAPACITY };
            if self.buffer.capacity() > kept {
                self.buffer = Vec::new();
            }
        }
    }

    /// Copies the unsent bytes, and duplicates the descriptors with the positions of their frames.
    #[allow(clippy::type_complexity)]
    pub(crate) fn copy(&self) -> io::Result<(Vec<u8>, Vec<(Range<usize>, Vec<Descriptor>)>)> {
        let copy = |Attachment { frame, descriptors }: &Attachment| {
            Ok((
                frame.start - self.sent..frame.end - self.sent,
                Descriptor::duplicates(descriptors)?,
            ))
        };
        Ok((self.unsent().to_vec(), self.attached.iter().map(copy).collect::<io::Result<_>>()?))
    }

    /// Restores a [`copy`](Self::copy) into a new outbox. Returns false if it is invalid.
    pub(crate) fn restore(
        &mut self,
        bytes: Vec<u8>,
        attached: Vec<(Range<usize>, Vec<Descriptor>)>,
    ) -> bool {
        (self.complete, self.buffer) = (bytes.len(), bytes);
        let mut free = 0;
        attached.into_iter().all(|(frame, descriptors)| {
            let fits = free <= frame.start && frame.start < frame.end && frame.end <= self.complete;
            free = frame.end;
            // The earlier version may have received them.
            let untrusted = |one| Untrusted::from(OwnedFd::from(one)).into();
            let descriptors = descriptors.into_iter().map(untrusted).collect();
            self.attached.push_back(Attachment { frame, descriptors });
            fits
        })
    }

    /// Returns the number of unsent bytes before the turn, if one is queued.
    pub(crate) fn before_turn(&self) -> Option<usize> {
        self.turn.map(|turn| turn - self.sent)
    }

    /// Restores [`before_turn`](Self::before_turn) after the bytes. Returns false if it is invalid.
    pub(crate) fn restore_turn(&mut self, turn: Option<usize>) -> bool {
        self.turn = turn;
        turn.is_none_or(|turn| (1..=self.complete).contains(&turn))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.complete == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::DEFAULT_FRAME_LIMIT;
    use super::*;

    fn push(outbox: &mut Outbox, payload: &[u8]) -> Result<(), FrameTooLong> {
        outbox.push(|buffer| {
            buffer.extend_from_slice(payload);
            Ok(())
        })
    }

    #[test]
    fn the_bytes_are_those_of_the_source() {
        let mut outbox = Outbox::new(1024);
        for payload in [&b"example"[..], b"broadcast:mybroadcast", b"", b"\xc3\xa9"] {
            push(&mut outbox, payload).unwrap();
        }
        let expected =
            b"\0\0\0\x07example\0\0\0\x15broadcast:mybroadcast\0\0\0\0\0\0\0\x02\xc3\xa9";
        assert_eq!(outbox.unsent(), expected);
    }

    #[test]
    fn a_frame_that_is_too_long_to_send_leaves_the_outbox_as_it_was() {
        let mut outbox = Outbox::new(4);
        push(&mut outbox, b"1234").unwrap();
        assert_eq!(push(&mut outbox, b"12345"), Err(FrameTooLong { length: 5, limit: 4 }));
        assert_eq!(outbox.unsent(), b"\0\0\0\x041234");
    }

    #[test]
    fn a_backlog_of_small_frames_leaves_no_large_buffer() {
        let mut outbox = Outbox::new(DEFAULT_FRAME_LIMIT);
        for _ in 0..1000 {
            push(&mut outbox, &[7; 1000]).unwrap();
        }
        outbox.sent(outbox.unsent().len());
        assert!(outbox.buffer.capacity() <= KEPT_CAPACITY);
        push(&mut outbox, &vec![7; 1 << 20]).unwrap();
        outbox.sent(outbox.unsent().len());
        assert!(outbox.buffer.capacity() > 1 << 20, "the next large frame is likely");
    }

    #[test]
    fn what_has_been_sent_takes_no_room_even_when_more_always_waits() {
        let mut outbox = Outbox::new(DEFAULT_FRAME_LIMIT);
        for _ in 0..10 {
            push(&mut outbox, &[7; 4096]).unwrap();
        }
        for _ in 0..10_000 {
            push(&mut outbox, &[7; 4096]).unwrap();
            outbox.sent(4100);
        }
        assert!(outbox.buffer.len() < KEPT_CAPACITY, "{}", outbox.buffer.len());
        assert_eq!(outbox.unsent().len(), 10 * 4100);
    }

    #[test]
    fn an_encoder_that_panics_leaves_the_outbox_as_it_was() {
        let mut outbox = Outbox::new(100);
        let panics = std::panic::AssertUnwindSafe(|| {
            let _ = outbox.push::<(), FrameTooLong>(|buffer| {
                buffer.push(7);
                panic!("in an encoder")
            });
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(outbox.unsent().is_empty());
        push(&mut outbox, b"next").unwrap();
        assert_eq!(outbox.unsent(), b"\0\0\0\x04next");
    }

    fn push_with(outbox: &mut Outbox, payload: &[u8], count: usize) -> io::PipeReader {
        let (reader, writer) = io::pipe().unwrap();
        push(outbox, payload).unwrap();
        outbox.attach((0..count).map(|_| Descriptor::new(writer.try_clone().unwrap())).collect());
        reader
    }

    /// The next write, taken as far as it goes: its payload's length, and its descriptors.
    fn write(outbox: &mut Outbox) -> (usize, usize) {
        let (bytes, descriptors) = outbox.next();
        let written = (bytes.len(), descriptors.len());
        outbox.sent(written.0);
        written
    }

    #[test]
    fn a_write_with_descriptors_is_their_frame_and_nothing_else() {
        let mut outbox = Outbox::new(100);
        push(&mut outbox, b"one").unwrap();
        push(&mut outbox, b"two").unwrap();
        let _first = push_with(&mut outbox, b"first", 1);
        let _second = push_with(&mut outbox, b"second", 3);
        push(&mut outbox, b"three").unwrap();
        let writes: Vec<_> = (0..4).map(|_| write(&mut outbox)).collect();
        assert_eq!(writes, [(14, 0), (9, 1), (10, 3), (9, 0)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn descriptors_leave_with_the_first_byte_and_are_closed_then() {
        use std::io::Read;
        let mut outbox = Outbox::new(100);
        let mut reader = push_with(&mut outbox, b"first", 2);
        push(&mut outbox, b"next").unwrap();
        assert_eq!(outbox.next().1.len(), 2);
        outbox.sent(1);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        let (rest, none) = outbox.next();
        assert_eq!((rest, none.len()), (&b"\0\0\x05first\0\0\0\x04next"[..], 0));
    }

    #[test]
    fn a_frame_that_is_taken_back_takes_its_descriptors_along() {
        use std::io::Read;
        let mut outbox = Outbox::new(100);
        let _stays = push_with(&mut outbox, b"stays", 1);
        let mut reader = push_with(&mut outbox, b"goes", 1);
        outbox.take_back();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        push(&mut outbox, b"next").unwrap();
        assert_eq!((write(&mut outbox), write(&mut outbox)), ((9, 1), (8, 0)));
        assert!(outbox.is_empty());
    }

    #[test]
    fn places_are_kept_when_the_buffer_gives_back_what_was_sent() {
        let mut outbox = Outbox::new(DEFAULT_FRAME_LIMIT);
        push(&mut outbox, &vec![7; 1 << 20]).unwrap();
        let _reader = push_with(&mut outbox, b"first", 1);
        outbox.sent(1 << 20);
        let _last = push_with(&mut outbox, b"last", 2);
        assert!(outbox.buffer.len() < 100, "the large frame was sent");
        let writes: Vec<_> = (0..3).map(|_| write(&mut outbox)).collect();
        assert_eq!(writes, [(4, 0), (9, 1), (8, 2)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn whole_frames_end_where_the_room_ends_and_before_descriptors() {
        let mut outbox = Outbox::new(100);
        push(&mut outbox, b"one").unwrap();
        push(&mut outbox, b"three").unwrap();
        let _reader = push_with(&mut outbox, b"first", 1);
        push(&mut outbox, b"behind").unwrap();
        let lengths = [0, 6, 7, 15, 16, 17, 1000].map(|room| outbox.whole_frames(room));
        assert_eq!(lengths, [0, 0, 7, 7, 16, 16, 16]);
        outbox.sent(16);
        assert_eq!(outbox.whole_frames(1000), 0);
    }

    #[test]
    fn what_is_behind_a_turn_is_no_part_of_the_write_before_it() {
        let mut outbox = Outbox::new(DEFAULT_FRAME_LIMIT);
        push(&mut outbox, &vec![7; 1 << 20]).unwrap();
        outbox.turn();
        let _reader = push_with(&mut outbox, b"behind", 1);
        assert_eq!(outbox.next().0.len(), (1 << 20) + 8);
        outbox.sent(1 << 20);
        assert_eq!(
            (outbox.before_turn(), outbox.next().0),
            (Some(8), &[7, 7, 7, 7, 0, 0, 0, 0][..])
        );
        outbox.sent(7);
        assert!(outbox.is_before_turn());
        outbox.sent(1);
        assert!(!outbox.is_before_turn());
        assert_eq!(write(&mut outbox), (10, 1));
        assert!(outbox.is_empty());
    }
}
