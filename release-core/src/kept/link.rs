//! A connection between two frames.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The state of one side of a connection, at a position of both streams where it handles nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link<D> {
    pub(crate) mode: Mode<D>,
    /// The limits from the start of the connection, also if the next program version has others.
    pub(crate) limits: Limits,
    pub(crate) socket: D,
    /// The received bytes that are not handled yet, and the frames among them with descriptors.
    pub(crate) input: Vec<u8>,
    pub(crate) arrivals: Vec<(usize, Vec<D>)>,
    /// The unsent bytes, and the positions of frames with descriptors.
    pub(crate) output: Vec<u8>,
    pub(crate) attached: Vec<(Range<usize>, Vec<D>)>,
    /// The last request numbers of this side.
    pub(crate) numbers: Vec<u32>,
    /// Times for which the peer has not finished a frame, and has not read.
    pub(crate) partial: Option<Duration>,
    pub(crate) unsent: Option<Duration>,
}

/// A version that knows no rings cannot continue where frames come through one, and has to refuse the
/// state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Mode<D> {
    Calls,
    PlainClient,
    PlainServer,
    CallsWithRings(Box<Rings<D>>),
}

/// The rings of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rings<D> {
    pub(crate) bytes: u32,
    pub(crate) inward: Option<InwardRing<D>>,
    pub(crate) outward: Option<OutwardRing<D>>,
}

/// The descriptors of a ring, and where it continues.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ring<D> {
    pub(crate) memory: D,
    pub(crate) bell: D,
    /// How many bytes were ever written, and how many read.
    pub(crate) numbers: [u64; 2],
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InwardRing<D> {
    pub(crate) ring: Ring<D>,
    pub(crate) is_current: bool,
    /// What has come on the other way.
    pub(crate) input: Vec<u8>,
    pub(crate) arrivals: Vec<(usize, Vec<D>)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OutwardRing<D> {
    pub(crate) ring: Ring<D>,
    pub(crate) way: Way,
    /// The number of unsent bytes that go over the socket before the ring is used again.
    pub(crate) before_turn: Option<usize>,
}

/// The way of the next frame.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    Socket,
    /// The socket, until the empty frame in the outbox is sent.
    Returning,
    Ring,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) frame: u32,
    pub(crate) frame_time: Duration,
    pub(crate) unsent: usize,
    pub(crate) unsent_time: Duration,
    pub(crate) descriptors: usize,
    pub(crate) takes_outputs: bool,
    pub(crate) spin: Duration,
    pub(crate) pulse: Option<Heartbeat>,
    #[serde(default)]
    pub(crate) ring: u32,
    #[serde(default)]
    pub(crate) hands_on: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    pub(crate) every: Duration,
    pub(crate) timeout: Option<Duration>,
}
