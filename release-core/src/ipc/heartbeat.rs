//! The heartbeat, as both sides know it: one asks again and again how the work of the other one goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// How the work of a process goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeartbeatReply {
    /// How many units it has finished.
    pub(crate) finished: u64,
    /// The age of the oldest one that it has not.
    pub(crate) oldest: Option<Duration>,
}

impl Heartbeat {
    /// A peer that does not get on for this time is found to hang; its numbers may be wanted too.
    pub(crate) fn new(timeout: Option<Duration>, counts: bool) -> Option<Self> {
        let every = timeout.map(|timeout| timeout / MISSES).into_iter();
        let every = every.chain(counts.then_some(COUNT_EVERY)).min()?;
        Some(Self { every, timeout })
    }
}
