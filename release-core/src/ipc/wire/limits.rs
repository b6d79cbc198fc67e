//! The limits of a connection for its peer.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::frame::DEFAULT_FRAME_LIMIT;
use crate::sys::rights;

/// Number of frames that a task handles before it yields. A peer that never stops sending must not
/// occupy the executor.
pub(crate) const FRAMES_PER_TURN: usize = 64;

/// Maximum number of unanswered requests of one side.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// The limits of a connection for its peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum length of a payload in bytes.
    pub(crate) frame: u32,
    /// Maximum time from the first byte of a frame to its last.
    pub(crate) frame_time: Duration,
    /// Maximum number of bytes in the queue for a peer that does not read. Beyond it, nothing more
    /// is queued and the peer's requests are deferred. Also the maximum size of all unanswered
    /// requests together. One message may exceed it.
    pub(crate) unsent: usize,
    /// Maximum time without progress of the queue.
    pub(crate) unsent_time: Duration,
    /// Maximum number of descriptors of one message, and of all unanswered requests together.
    pub(crate) descriptors: usize,
    /// True if the peer is the master of this process, which may replace its outputs.
    pub(crate) takes_outputs: bool,
    /// Time for which a caller polls for its answer before it sleeps.
    pub(crate) spin: Duration,
    /// The heartbeat of the connection, if there is one.
    pub(crate) pulse: Option<Heartbeat>,
    /// Size in bytes of the ring in shared memory for each direction: a power of two, or 0 for none.
    pub(crate) ring: u32,
    /// True if the peer is a worker that may hand connections on.
    pub(crate) hands_on: bool,
}

/// Maximum number of descriptors in answers that their callers have not read yet.
///
/// Callers are woken for each answer. Only a peer that answers many calls at once comes near this
/// limit.
pub(crate) const UNTAKEN_DESCRIPTORS: usize = 1024;

/// Number of connections that a worker may hand on while the master is being upgraded. Others wait in
/// the socket.
const HANDED_ON_AT_ONCE: usize = 64;

/// The sizes of a ring in bytes.
pub(crate) const RINGS: RangeInclusive<u32> = 4096..=64 * 1024 * 1024;

/// Maximum polling time. A longer wait should sleep.
const LONGEST_SPIN: Duration = Duration::from_millis(1);

impl Limits {
    /// The limits between master and worker.
    pub(crate) const IPC: Self = Self {
        frame: DEFAULT_FRAME_LIMIT,
        frame_time: Duration::from_secs(10),
        unsent: 1024 * 1024,
        unsent_time: Duration::from_secs(30),
        descriptors: 0,
        takes_outputs: false,
        spin: Duration::ZERO,
        pulse: None,
        ring: 0,
        hands_on: false,
    };

    /// Sets the frame limit.
    pub(crate) fn with_frame(self, bytes: u32) -> Self {
        Self { frame: bytes, ..self }
    }

    /// Sets the time for which callers poll for their answers.
    pub(crate) fn with_spin(self, time: Duration) -> Self {
        Self { spin: time.min(LONGEST_SPIN), ..self }
    }

    /// Returns the limits for the worker's side.
    pub(crate) fn of_worker(self) -> Self {
        Self { takes_outputs: true, ..self }
    }

    /// Sets the size of the rings, rounded up to one that is possible.
    pub(crate) fn with_ring(self, bytes: u32) -> Self {
        let bytes = bytes.clamp(*RINGS.start(), *RINGS.end()).next_power_of_two();
        Self { ring: bytes, ..self }
    }

    /// Returns the limits of a connection whose frames cannot announce descriptors.
    pub(crate) fn without_descriptors(self) -> Self {
        Self { descriptors: 0, hands_on: false, ..self }
    }

    pub(crate) fn without_ring(self) -> Self {
        Self { ring: 0, ..self }
    }

    /// Returns the maximum number of descriptors of a received frame of any kind.
    pub(crate) fn arriving(&self) -> usize {
        let two = self.takes_outputs || self.ring > 0;
        let least = if two { 2 } else { usize::from(self.hands_on) };
        self.descriptors.max(least)
    }

    /// Returns the maximum number of descriptors of frames that wait for the end of a pause.
    pub(crate) fn aside_descriptors(&self) -> usize {
        self.descriptors.max(if self.hands_on { HANDED_ON_AT_ONCE } else { 0 })
    }

    /// Sets the limit of descriptors, up to the limit of the kernel.
    pub(crate) fn with_descriptors(self, most: u8) -> Self {
        Self { descriptors: usize::from(most).min(rights::MOST), ..self }
    }
}

/// Minimum number of missing answers. One is not enough: after this process was stopped, its timer
/// expires before it reads an answer that is already there.
const MISSES: u32 = 4;

/// Interval of the heartbeat if only its numbers are needed.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// The heartbeat of a connection. The master asks for the state of the work at an interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) every: Duration,
    /// Maximum time without an answer, and for one unit of work.
    pub(crate) timeout: Option<Duration>,
}

impl Heartbeat {
    /// Creates a heartbeat that finds a hanging peer after `timeout`, or that only counts its work.
    pub(crate) fn new(timeout: Option<Duration>, counts: bool) -> Option<Self> {
        let every = timeout.map(|timeout| timeout / MISSES).into_iter();
        let every = every.chain(counts.then_some(COUNT_EVERY)).min()?;
        Some(Self { every, timeout })
    }
}
