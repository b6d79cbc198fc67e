//! The way of frames through shared memory, and the order of frames across it and the socket.
//!
//! Each direction has two ways: the socket, and a ring in memory that the receiver has made. Frames
//! begin on the socket. An empty frame on one way says that the next frame comes on the other one.
//! The order is therefore part of the two streams, and does not depend on time.
//!
//! The sender never waits for a ring. It leaves it when the next frame does not fit or contains
//! descriptors; there is always room for the empty frame. It returns when all that is queued is sent
//! and half of the ring is free.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};

use super::arrivals::Arrivals;
use super::notes::Note;
use super::readable::{Readable, SocketReader};
use super::socket::Received;
use crate::ipc::limits::{Limits, RINGS};
use crate::ipc::wire::frame::Inbox;
use crate::ipc::wire::header::Header;
use crate::ipc::wire::outbox::Outbox;
use crate::ipc::wire::ring::{BadIndex, RingReader, RingWriter, words_for};
use crate::ipc::{Descriptor, Ended};
use crate::kept;
use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::bell;
use crate::sys::fds::duplicate_from;
use crate::sys::shared_memory::{SharedMemory, Unmapped};
use crate::sys::untrusted::Untrusted;

/// The frame that says that the next one comes on the other way.
const TURN: [u8; 4] = [0; 4];

/// The body of the frame that asks for rings, before their size. The frame cancels request 0, which
/// does not exist: a peer that knows no rings drops it.
pub(super) const WISH: &[u8; 4] = b"ring";

const BAD_INDEX: Ended = Ended::Violation("an index of its ring that cannot be");
const NO_FRAMES: Ended = Ended::Violation("turns between ring and socket without frames");
const UNASKED: Ended = Ended::Violation("a ring that nobody asked for");
const TWICE: Ended = Ended::Violation("a second ring");
const NO_SIZE: Ended = Ended::Violation("a ring of a size that cannot be");
const NO_BELL: Ended = Ended::Violation("a ring without a timer to signal it");
const IMPOSSIBLE: &str = "the ring of a connection makes no sense";

impl From<BadIndex> for Ended {
    fn from(_: BadIndex) -> Self {
        BAD_INDEX
    }
}

/// What the peer says about rings.
#[derive(Clone, Copy, Debug)]
pub(super) enum RingFrame {
    /// It wants rings of so many bytes.
    Wish(u32),
    /// It has made one, into which this side may write.
    Offer,
}

impl RingFrame {
    pub(super) fn parse(header: Header, body: &[u8]) -> Option<Self> {
        match header {
            Header::Ring => Some(Self::Offer),
            Header::Cancel { number: 0 } => {
                let bytes = body.strip_prefix(WISH)?.try_into().ok()?;
                Some(Self::Wish(u32::from_be_bytes(bytes)))
            }
            _ => None,
        }
    }
}

/// The rings of a connection, as far as both sides have agreed on them.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// The size of both, after both sides have asked.
    bytes: Option<u32>,
    inward: Option<Box<Inward>>,
    outward: Option<Box<Outward>>,
}

/// The direction to this side.
#[derive(Debug)]
pub(super) struct Inward {
    reader: RingReader<SharedMemory>,
    bell: Io,
    readable: Readable,
    /// True while frames come through the ring, false while they come over the socket.
    is_current: bool,
    /// What has come on the way that is not the current one.
    other: (Inbox, Arrivals),
    /// Turns since the last frame.
    turns: u32,
    known: KnownSignals,
}

/// How many signals the bytes explain that have come.
///
/// The bell is not silenced after each: that costs two system calls, and an edge-triggered runtime
/// reports the next signal all the same. Another runtime reports the same one again, and it is silenced
/// then. A signal may also come late, after its bytes were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownSignals {
    /// Bytes have come, and no signal was heard since.
    Both,
    One,
    None,
}

/// The direction to the peer.
#[derive(Debug)]
struct Outward {
    writer: RingWriter<SharedMemory>,
    bell: OwnedFd,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Socket,
    /// The socket, until the empty frame in the outbox is sent.
    Returning,
    Ring,
}

/// What a signal meant.
pub(super) enum Signalled {
    Bytes,
    Nothing,
}

impl Inward {
    fn new(reader: RingReader<SharedMemory>, bell: Io, limits: Limits) -> Self {
        let other = (Inbox::new(limits.frame), Arrivals::default());
        let readable = Readable::default();
        let known = KnownSignals::Both;
        Self { reader, bell, readable, is_current: false, other, turns: 0, known }
    }

    /// Makes the ring of this side. Returns the descriptors of which the peer gets duplicates, too.
    pub(super) fn make(bytes: u32, rt: &Rt, limits: Limits) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (memory, bell) = (SharedMemory::new(words_for(bytes))?, bell::create()?);
        let for_peer = vec![duplicate_from(memory.as_fd(), 3)?, duplicate_from(bell.as_fd(), 3)?];
        let inward = Self::new(RingReader::new(memory), rt.register(bell)?, limits);
        Ok((inward, for_peer))
    }

    /// Sleeps until bytes are in the ring, or there is a signal for nothing.
    fn poll(&mut self, cx: &mut Context<'_>, task: SocketReader) -> Poll<Result<Signalled, Ended>> {
        if !self.reader.fall_asleep()? {
            return Poll::Ready(Ok(Signalled::Bytes));
        }
        let Self { reader, bell, readable, known, .. } = self;
        let polled = readable
            .poll(cx, task, |cx| bell.poll(cx, Direction::Read, |fd| hear(fd, reader, known)));
        Poll::Ready(Ok(ready!(polled)?))
    }
}

pub(super) fn hear(
    fd: BorrowedFd<'_>,
    reader: &mut RingReader<SharedMemory>,
    known: &mut KnownSignals,
) -> io::Result<(Signalled, Progress)> {
    // An index that cannot be ends the connection when it is read.
    let mut has_bytes = || !matches!(reader.waiting(), Ok(0));
    if has_bytes() {
        return Ok((Signalled::Bytes, Progress::Drained));
    }
    if *known == KnownSignals::Both {
        *known = KnownSignals::One;
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // Most runtimes do not ask then.
    if !bell::rings(fd)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    bell::silence(fd)?;
    let is_known = mem::replace(known, KnownSignals::None) == KnownSignals::One;
    let heard = if is_known || has_bytes() { Signalled::Bytes } else { Signalled::Nothing };
    Ok((heard, Progress::Drained))
}

impl Outward {
    /// Moves frames to the ring as far as that is their way. Afterwards the outbox is empty, or its
    /// next bytes go over the socket.
    fn send(&mut self, outbox: &mut Outbox) -> Result<(), Ended> {
        if self.way == Way::Returning && !outbox.is_before_turn() {
            self.way = Way::Ring;
        }
        if self.way == Way::Returning || outbox.is_empty() {
            return Ok(());
        }
        if self.way == Way::Ring {
            // Always enough for one empty frame.
            let room = self.writer.room()?;
            let count = outbox.whole_frames(room.saturating_sub(TURN.len()));
            self.writer.write(&outbox.unsent()[..count]);
            outbox.sent(count);
            if !outbox.is_empty() {
                self.writer.write(&TURN);
                self.way = Way::Socket;
            }
            if self.writer.publish() {
                bell::ring(self.bell.as_fd())?;
            }
        }
        if !outbox.is_empty() && self.writer.room()? >= self.writer.size() / 2 {
            outbox.turn();
            self.way = Way::Returning;
        }
        Ok(())
    }
}

impl Rings {
    /// Returns true while frames come through the ring.
    pub(super) fn is_read(&self) -> bool {
        self.inward.as_ref().is_some_and(|inward| inward.is_current)
    }

    /// Returns true if the peer has made a ring.
    #[inline]
    pub(super) fn are_written(&self) -> bool {
        self.outward.is_some()
    }

    /// Moves queued frames to the peer's ring, if there is one and as far as that is their way.
    pub(super) fn send(&mut self, outbox: &mut Outbox) -> Result<(), Ended> {
        match &mut self.outward {
            Some(outward) => outward.send(outbox),
            None => Ok(()),
        }
    }

    /// Returns whether there is another way, for an empty frame.
    pub(super) fn may_turn(&self) -> Result<bool, Ended> {
        match &self.inward {
            // An honest peer may return to a ring, and leave it at once.
            Some(inward) if inward.turns >= 2 => Err(NO_FRAMES),
            inward => Ok(inward.is_some()),
        }
    }

    /// Continues on the other way.
    pub(super) fn turn(&mut self, inbox: &mut Inbox, arrivals: &mut Arrivals) {
        if let Some(inward) = &mut self.inward {
            inward.turns += 1;
            mem::swap(inbox, &mut inward.other.0);
            mem::swap(arrivals, &mut inward.other.1);
            inward.is_current = !inward.is_current;
        }
    }

    /// Counts a frame.
    #[inline]
    pub(super) fn consumed(&mut self) {
        if let Some(inward) = &mut self.inward {
            inward.turns = 0;
        }
    }

    /// Reads the ring once, like the socket.
    pub(super) fn receive(&mut self, space: &mut [u8]) -> io::Result<Received> {
        let Some(inward) = &mut self.inward else { return Err(io::ErrorKind::WouldBlock.into()) };
        match inward.reader.read(space) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count) => {
                inward.known = KnownSignals::Both;
                Ok(Received::Bytes(count))
            }
            Err(bad) => Ok(Received::Refused(bad.into())),
        }
    }

    /// Sleeps until there is something to read.
    pub(super) fn poll_bell(
        &mut self,
        cx: &mut Context<'_>,
        task: SocketReader,
    ) -> Poll<Result<Signalled, Ended>> {
        self.inward.as_mut().map_or(Poll::Pending, |inward| inward.poll(cx, task))
    }

    /// Drops the waker of a caller that has given up.
    pub(super) fn forget_caller(&self) {
        if let Some(inward) = &self.inward {
            inward.readable.forget_caller();
        }
    }

    /// Returns true if bytes have arrived on the other way than the current one.
    pub(super) fn holds_other_bytes(&self) -> bool {
        self.inward.as_ref().is_some_and(|inward| !inward.other.0.is_empty())
    }

    /// Returns true if nothing waits in the ring.
    pub(super) fn is_empty(&mut self) -> bool {
        self.inward.as_mut().is_none_or(|inward| matches!(inward.reader.waiting(), Ok(0)))
    }

    /// Handles the wish of the peer, if this side wants rings of up to `most` bytes. Returns their size.
    pub(super) fn agree(&mut self, bytes: u32, most: u32) -> Result<u32, Ended> {
        if self.bytes.is_some() {
            return Err(TWICE);
        }
        if !RINGS.contains(&bytes) || !bytes.is_power_of_two() {
            return Err(NO_SIZE);
        }
        Ok(*self.bytes.insert(bytes.min(most)))
    }

    /// Reads from this ring when the peer says so.
    pub(super) fn offered(&mut self, inward: Inward) {
        self.inward = Some(Box::new(inward));
    }

    /// Writes into the ring of the peer from now on.
    pub(super) fn accept(&mut self, descriptors: Vec<Untrusted>) -> Result<Option<Note>, Ended> {
        let bytes = self.bytes.ok_or(UNASKED)?;
        if self.outward.is_some() {
            return Err(TWICE);
        }
        match accept(descriptors, bytes)? {
            Ok(outward) => {
                self.outward = Some(Box::new(outward));
                Ok(None)
            }
            Err(error) => Ok(Some(Note::UnusableRing { error, bytes })),
        }
    }

    /// Frees the memory. Returns the task that waits for it.
    pub(super) fn end(&mut self) -> Option<Waker> {
        let Self { inward, .. } = mem::take(self);
        inward.and_then(|inward| inward.readable.take())
    }
}

/// Returns the direction to a peer that has made a ring, or the reason why this process has no room for
/// it.
fn accept(descriptors: Vec<Untrusted>, bytes: u32) -> Result<io::Result<Outward>, Ended> {
    let mut descriptors = descriptors.into_iter();
    let (Some(memory), Some(bell)) = (descriptors.next(), descriptors.next()) else {
        return Err(UNASKED);
    };
    if !bell::is_one(bell.as_fd()) {
        return Err(NO_BELL);
    }
    let bell = OwnedFd::from(bell);
    match SharedMemory::of_peer(memory, words_for(bytes)) {
        Ok(memory) => {
            let writer = RingWriter::new(memory);
            Ok(Ok(Outward { writer, bell, way: Way::Socket }))
        }
        Err(Unmapped::Refused(why)) => Err(Ended::Violation(why)),
        // Everything goes over the socket, as before.
        Err(Unmapped::Failed(error)) => Ok(Err(error)),
    }
}

/// The rings of a frozen link.
pub(super) type FrozenRings = kept::Rings<Descriptor>;
type FrozenRing = kept::Ring<Descriptor>;
type FrozenInward = kept::InwardRing<Descriptor>;
type FrozenOutward = kept::OutwardRing<Descriptor>;

impl From<Way> for kept::Way {
    fn from(way: Way) -> Self {
        match way {
            Way::Socket => Self::Socket,
            Way::Returning => Self::Returning,
            Way::Ring => Self::Ring,
        }
    }
}

impl From<kept::Way> for Way {
    fn from(kept: kept::Way) -> Self {
        match kept {
            kept::Way::Socket => Self::Socket,
            kept::Way::Returning => Self::Returning,
            kept::Way::Ring => Self::Ring,
        }
    }
}

impl FrozenRing {
    fn new(memory: &SharedMemory, bell: BorrowedFd<'_>, numbers: [u64; 2]) -> io::Result<Self> {
        let memory = duplicate_from(memory.as_fd(), 3)?.into();
        Ok(Self { memory, bell: duplicate_from(bell, 3)?.into(), numbers })
    }

    fn is_possible(&self, bytes: u32) -> bool {
        let [written, read] = self.numbers;
        written.wrapping_sub(read) <= bytes.into()
    }
}

impl Rings {
    /// Returns a copy, or `None` if the connection has no rings.
    pub(super) fn copy(&self, outbox: &Outbox) -> io::Result<Option<FrozenRings>> {
        let Some(bytes) = self.bytes else { return Ok(None) };
        let inward = |inward: &Inward| {
            let (reader, bell) = (&inward.reader, inward.bell.as_fd());
            Ok::<_, io::Error>(FrozenInward {
                ring: FrozenRing::new(reader.memory(), bell, reader.numbers())?,
                is_current: inward.is_current,
                input: inward.other.0.unread().to_vec(),
                arrivals: inward.other.1.copy()?,
            })
        };
        let outward = |Outward { writer, bell, way }: &Outward| {
            Ok::<_, io::Error>(FrozenOutward {
                ring: FrozenRing::new(writer.memory(), bell.as_fd(), writer.numbers())?,
                way: (*way).into(),
                before_turn: outbox.before_turn(),
            })
        };
        Ok(Some(FrozenRings {
            bytes,
            inward: self.inward.as_deref().map(inward).transpose()?,
            outward: self.outward.as_deref().map(outward).transpose()?,
        }))
    }
}

impl FrozenRings {
    /// Restores what belongs to the outbox, and checks everything but the descriptors.
    pub(super) fn restore(&self, outbox: &mut Outbox) -> bool {
        let is_possible = |ring: &FrozenRing| ring.is_possible(self.bytes);
        let is_size = RINGS.contains(&self.bytes) && self.bytes.is_power_of_two();
        is_size
            && self.inward.as_ref().is_none_or(|inward| is_possible(&inward.ring))
            && self.outward.as_ref().is_none_or(|FrozenOutward { ring, way, before_turn }| {
                let turns = before_turn.is_none() || matches!(way, kept::Way::Returning);
                is_possible(ring) && turns && outbox.restore_turn(*before_turn)
            })
    }

    pub(super) fn thaw(self, rt: &Rt, limits: Limits) -> io::Result<Rings> {
        let Self { bytes, inward, outward } = self;
        let impossible = || io::Error::new(io::ErrorKind::InvalidData, IMPOSSIBLE);
        let map = |memory: Descriptor| {
            SharedMemory::of_peer(OwnedFd::from(memory), words_for(bytes)).map_err(
                |why| match why {
                    Unmapped::Refused(why) => io::Error::new(io::ErrorKind::InvalidData, why),
                    Unmapped::Failed(error) => error,
                },
            )
        };
        let thaw_inward = |frozen: FrozenInward| {
            let FrozenInward { ring, is_current, input, arrivals } = frozen;
            let FrozenRing { memory, bell, numbers } = ring;
            let reader = RingReader::at(map(memory)?, numbers).ok_or_else(impossible)?;
            let mut inward = Inward::new(reader, rt.register(bell.into())?, limits);
            inward.is_current = is_current;
            inward.other.0.put_back(&input);
            if inward.other.1.restore(arrivals) { Ok(Box::new(inward)) } else { Err(impossible()) }
        };
        let thaw_outward = |FrozenOutward { ring, way, .. }: FrozenOutward| {
            let FrozenRing { memory, bell, numbers } = ring;
            let writer = RingWriter::at(map(memory)?, numbers).ok_or_else(impossible)?;
            Ok::<_, io::Error>(Box::new(Outward { writer, bell: bell.into(), way: way.into() }))
        };
        Ok(Rings {
            bytes: Some(bytes),
            inward: inward.map(thaw_inward).transpose()?,
            outward: outward.map(thaw_outward).transpose()?,
        })
    }
}
