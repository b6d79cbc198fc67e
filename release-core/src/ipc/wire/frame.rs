//! Frames: a 4-byte big-endian length, then the payload. Splits received bytes, without I/O.

use std::fmt;
use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

/// Size of the length field before each payload.
pub(crate) const HEADER: usize = 4;

/// The default frame limit of connections between master and workers: 16 MiB.
///
/// # Examples
///
/// ```
/// use release_core::{Workers, ipc::DEFAULT_FRAME_LIMIT};
///
/// let workers = Workers::same_executable("images", 2).frame_limit(4 * DEFAULT_FRAME_LIMIT);
/// # let _ = workers;
/// ```
pub const DEFAULT_FRAME_LIMIT: u32 = 16 * 1024 * 1024;

/// Initial size of a buffer. It grows with the received bytes, never by the length in a header.
///
/// Most connections of a master carry single small messages. A fork copies all memory of the master, so
/// the buffers of a thousand workers make the start of each process slower.
const FIRST_CAPACITY: usize = 1024;

/// A buffer grows up to this size as soon as one read has filled it: many small frames arrive together.
const READ_CAPACITY: usize = 8 * 1024;

/// A buffer of more than this size is freed after many small frames.
pub(crate) const KEPT_CAPACITY: usize = 256 * 1024;

/// A buffer of more than this size is freed as soon as it is empty.
pub(crate) const LARGE_CAPACITY: usize = 2 * 1024 * 1024;

/// Number of consecutive small frames after which a large buffer is freed.
const SMALL_FRAMES_BEFORE_SHRINKING: u32 = 64;

/// The error of a frame that is longer than the connection allows. A received frame is refused when
/// its header arrives, and other frames before they are sent.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{CallError, Peer};
///
/// async fn send(peer: &Peer<String>, text: &String) -> Result<String, CallError> {
///     match peer.call(text).await {
///         Err(CallError::TooLong(error)) => Ok(format!("at most {} bytes", error.limit)),
///         other => other,
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameTooLong {
    /// Length of the payload in bytes.
    pub length: u64,
    /// Limit of the connection in bytes.
    pub limit: u32,
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes is over the limit of {} bytes", self.length, self.limit)
    }
}

impl std::error::Error for FrameTooLong {}

/// Received bytes, split into frames in place.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Always initialised to its full length. `start..end` was received and is not consumed yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    limit: u32,
    small_frames: u32,
}

impl Inbox {
    pub(crate) fn new(limit: u32) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, limit, small_frames: 0 }
    }

    /// Returns the space for the next bytes, which is never empty.
    ///
    /// The buffer is at most twice as long as the received bytes. A frame of 16 MiB does not take
    /// that much memory before its sender has sent 8 MiB.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let is_full = self.end == self.buffer.len();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if is_full && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if is_full && (self.end == self.buffer.len() || self.buffer.len() < READ_CAPACITY) {
            let grown = (self.buffer.len() * 2).max(FIRST_CAPACITY);
            self.buffer.resize(grown, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Adds bytes that were read into [`space`](Self::space).
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// Adds bytes that were read into [`space`](Self::space) together with descriptors. Returns the
    /// number of frames before the frame of the descriptors, or `None` if it started in an earlier
    /// read.
    ///
    /// Descriptors are sent with the first byte of their frame and with nothing after that frame.
    /// The kernel ends such a read within this frame.
    pub(crate) fn received_with_descriptors(&mut self, count: usize) -> Option<usize> {
        let (mut begins, mut frames, first_new) = (self.start, 0, self.end);
        self.received(count);
        while let Some(header) = self.buffer[begins..self.end].get(..HEADER) {
            let length = usize::try_from(BigEndian::read_u32(header)).unwrap_or(usize::MAX);
            let end = begins.saturating_add(HEADER).saturating_add(length);
            if end >= self.end {
                break;
            }
            (begins, frames) = (end, frames + 1);
        }
        (begins >= first_new).then_some(frames)
    }

    /// Returns the payload of the first complete frame, if there is one.
    pub(crate) fn frame(&self) -> Result<Option<Range<usize>>, FrameTooLong> {
        let received = &self.buffer[self.start..self.end];
        if received.len() < HEADER {
            return Ok(None);
        }
        let length = BigEndian::read_u32(received);
        if length > self.limit {
            return Err(FrameTooLong { length: length.into(), limit: self.limit });
        }
        let payload = self.start + HEADER;
        // Cannot fail where usize has 32 bits or more; where it has fewer, the limit is beyond it.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Ok((self.end - payload >= length).then(|| payload..payload + length))
    }

    pub(crate) fn payload(&self, frame: Range<usize>) -> &[u8] {
        &self.buffer[frame]
    }

    /// Returns a frame with its length field.
    pub(crate) fn with_header(&self, frame: &Range<usize>) -> &[u8] {
        &self.buffer[frame.start - HEADER..frame.end]
    }

    /// Returns the received bytes that are not consumed yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Puts bytes back before the received bytes that are not consumed yet.
    pub(crate) fn put_back(&mut self, earlier: &[u8]) {
        if !earlier.is_empty() {
            self.buffer = [earlier, self.unread()].concat();
            (self.start, self.end) = (0, self.buffer.len());
        }
    }

    /// Removes the first frame, which [`frame`](Self::frame) returned.
    pub(crate) fn consume(&mut self, frame: &Range<usize>) {
        self.start = frame.end;
        if self.buffer.len() <= KEPT_CAPACITY {
            return;
        }
        self.small_frames = if frame.len() < KEPT_CAPACITY / 4 { self.small_frames + 1 } else { 0 };
        let too_large = self.small_frames >= SMALL_FRAMES_BEFORE_SHRINKING
            || self.buffer.len() > LARGE_CAPACITY;
        if too_large && self.is_empty() {
            self.buffer = Vec::new();
            (self.start, self.end, self.small_frames) = (0, 0, 0);
        }
    }

    /// Returns true if all received bytes have been consumed.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns true if a frame has started and is not complete.
    pub(crate) fn is_partial(&self) -> bool {
        self.start < self.end && matches!(self.frame(), Ok(None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Outbox;
    use super::*;
    use proptest::prelude::*;

    fn push(outbox: &mut Outbox, payload: &[u8]) -> Result<(), FrameTooLong> {
        outbox.push(|buffer| {
            buffer.extend_from_slice(payload);
            Ok(())
        })
    }

    fn feed(inbox: &mut Inbox, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = inbox.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            inbox.received(count);
            bytes = &bytes[count..];
        }
    }

    fn take(inbox: &mut Inbox) -> Option<Vec<u8>> {
        let frame = inbox.frame().expect("within the limit")?;
        let payload = inbox.payload(frame.clone()).to_vec();
        inbox.consume(&frame);
        Some(payload)
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_the_header_and_reserves_nothing() {
        let mut inbox = Inbox::new(1024);
        feed(&mut inbox, &[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(inbox.frame(), Err(FrameTooLong { length: 0xffff_ffff, limit: 1024 }));
        assert!(inbox.buffer.capacity() <= 2 * FIRST_CAPACITY);
        let error = inbox.frame().unwrap_err().to_string();
        assert!(error.contains("4294967295") && error.contains("1024"), "{error}");
    }

    #[test]
    fn a_promise_of_16_mib_reserves_only_what_arrives() {
        let mut inbox = Inbox::new(DEFAULT_FRAME_LIMIT);
        feed(&mut inbox, &DEFAULT_FRAME_LIMIT.to_be_bytes());
        feed(&mut inbox, &[0; 100]);
        assert_eq!(inbox.frame(), Ok(None));
        assert!(inbox.is_partial());
        assert!(inbox.buffer.capacity() <= 2 * FIRST_CAPACITY);
    }

    #[test]
    fn small_frames_that_arrive_together_are_received_in_fewer_reads() {
        let (mut inbox, frames) = (Inbox::new(1024), b"\0\0\0\x04more".repeat(4096));
        let mut reads = Vec::new();
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let count = inbox.space().len().min(rest.len());
            feed(&mut inbox, &rest[..count]);
            while take(&mut inbox).is_some() {}
            rest = &rest[count..];
            reads.push(count);
        }
        assert_eq!(reads[..4], [1024, 2048, 4096, 8192]);
        assert!(reads.iter().all(|count| *count <= READ_CAPACITY), "{reads:?}");
        // One small frame after the other takes no more than the first buffer.
        let mut inbox = Inbox::new(1024);
        for _ in 0..1000 {
            feed(&mut inbox, b"\0\0\0\x04once");
            assert_eq!(take(&mut inbox).as_deref(), Some(&b"once"[..]));
        }
        assert_eq!(inbox.buffer.len(), FIRST_CAPACITY);
    }

    #[test]
    fn a_large_buffer_is_given_back_after_many_small_frames() {
        let mut inbox = Inbox::new(DEFAULT_FRAME_LIMIT);
        let mut outbox = Outbox::new(DEFAULT_FRAME_LIMIT);
        push(&mut outbox, &vec![7; 1 << 20]).unwrap();
        feed(&mut inbox, outbox.unsent());
        assert_eq!(take(&mut inbox).map(|payload| payload.len()), Some(1 << 20));
        assert!(inbox.buffer.capacity() > 1 << 20);
        for _ in 0..SMALL_FRAMES_BEFORE_SHRINKING {
            feed(&mut inbox, b"\0\0\0\x01x");
            assert_eq!(take(&mut inbox).as_deref(), Some(&b"x"[..]));
        }
        assert!(inbox.buffer.capacity() < KEPT_CAPACITY);
    }

    #[test]
    fn a_very_large_buffer_is_given_back_at_once() {
        let mut inbox = Inbox::new(DEFAULT_FRAME_LIMIT);
        feed(&mut inbox, &(3_u32 << 20).to_be_bytes());
        feed(&mut inbox, &vec![7; 3 << 20]);
        assert_eq!(take(&mut inbox).map(|payload| payload.len()), Some(3 << 20));
        assert_eq!(inbox.buffer.capacity(), 0);
    }

    proptest! {
        #![proptest_config(crate::cases::cases(256))]

        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..20),
            cuts in prop::collection::vec(1_usize..5000, 1..50),
        ) {
            let mut outbox = Outbox::new(4096);
            for payload in &payloads {
                push(&mut outbox, payload).unwrap();
            }
            let mut inbox = Inbox::new(4096);
            let mut out = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !outbox.is_empty() {
                let count = (*cuts.next().unwrap()).min(outbox.unsent().len());
                feed(&mut inbox, &outbox.unsent()[..count]);
                outbox.sent(count);
                while let Some(payload) = take(&mut inbox) {
                    out.push(payload);
                }
            }
            prop_assert_eq!(out, payloads);
            prop_assert!(!inbox.is_partial());
        }
    }
}
