//! What a connection grants its peer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::DEFAULT_FRAME_LIMIT;
use crate::sys::rights;

/// How many frames a task handles before others have their turn: a peer that sends without end
/// must not have the executor for itself.
pub(crate) const FRAMES_PER_TURN: usize = 64;

/// How many requests of one side may be unanswered at a time.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// What a connection grants its peer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The longest payload, in bytes.
    pub(crate) frame: u32,
    /// How long a frame may take from its first byte to its last.
    pub(crate) frame_time: Duration,
    /// How many bytes may wait for a peer that does not read before nothing more is queued for it
    /// and its requests are put off; and how many bytes unanswered requests may have together.
    /// One message may go beyond it.
    pub(crate) unsent: usize,
    /// How long they may wait without any progress.
    pub(crate) unsent_time: Duration,
    /// How many descriptors one message may have, and all unanswered requests together.
    pub(crate) descriptors: usize,
    /// Whether the peer is this process's master, which may send it its standard output and error.
    pub(crate) takes_outputs: bool,
    /// How long a caller looks for its answer before it sleeps.
    pub(crate) spin: Duration,
    /// How the peer is asked whether its work goes on, if it is.
    pub(crate) pulse: Option<Heartbeat>,
}

/// How many descriptors may have come in answers that their callers have not looked at yet.
///
/// The callers asked for them, and are woken: only a peer that answers all of many callers at once
/// comes near it.
pub(crate) const UNTAKEN_DESCRIPTORS: usize = 1024;

/// What looks for longer than this had better sleep.
const LONGEST_SPIN: Duration = Duration::from_millis(1);

impl Limits {
    /// Between master and worker.
    pub(crate) const IPC: Self = Self {
        frame: DEFAULT_FRAME_LIMIT,
        frame_time: Duration::from_secs(10),
        unsent: 1024 * 1024,
        unsent_time: Duration::from_secs(30),
        descriptors: 0,
        takes_outputs: false,
        spin: Duration::ZERO,
        pulse: None,
    };

    /// The same with another frame limit.
    pub(crate) fn with_frame(self, bytes: u32) -> Self {
        Self { frame: bytes, ..self }
    }

    /// The same with callers that look for their answers for a time.
    pub(crate) fn with_spin(self, time: Duration) -> Self {
        Self { spin: time.min(LONGEST_SPIN), ..self }
    }

    /// The same at the worker's end.
    pub(crate) fn of_worker(self) -> Self {
        Self { takes_outputs: true, ..self }
    }

    /// How many descriptors may come with one frame of any kind.
    pub(crate) fn arriving(&self) -> usize {
        if self.takes_outputs { self.descriptors.max(2) } else { self.descriptors }
    }

    /// The same with so many descriptors, as far as the kernel takes them.
    pub(crate) fn with_descriptors(self, most: u8) -> Self {
        Self { descriptors: usize::from(most).min(rights::MOST), ..self }
    }
}

/// How often an answer must be missing, at least. One is not enough: a process that was stopped
/// itself finds its own time over before it has read the answer that was there.
const MISSES: u32 = 4;

/// How often the peer is asked when its numbers are wanted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How the peer is asked, and what follows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    pub(crate) every: Duration,
    /// How long it may be silent, and be busy with one thing.
    pub(crate) timeout: Option<Duration>,
}

impl Heartbeat {
    /// A peer that does not get on for this time is found to hang; its numbers may be wanted too.
    pub(crate) fn new(timeout: Option<Duration>, counts: bool) -> Option<Self> {
        let every = timeout.map(|timeout| timeout / MISSES).into_iter();
        let every = every.chain(counts.then_some(COUNT_EVERY)).min()?;
        Some(Self { every, timeout })
    }
}
