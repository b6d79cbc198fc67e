//! Decoded frames of the peer, and requests that are deferred.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ipc::limits::MAX_IN_FLIGHT;
use crate::ipc::link::{Incoming, Link};
use crate::ipc::wire::body::{Body, Size};
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::{Codec, HeartbeatReply};
use crate::sys::untrusted::Untrusted;

/// A request of the peer, or the reason why it does not decode.
pub(super) struct PeerRequest<R> {
    pub(super) number: RequestNumber,
    pub(super) timeout: Option<Duration>,
    pub(super) request: Result<R, String>,
    pub(super) size: Size,
}

/// Requests that arrived while the peer did not read its answers. They are started when it reads.
///
/// Reading continues meanwhile. If both sides stopped reading until the other side reads, the
/// connection would never recover.
pub(super) struct HeldRequests<R> {
    pub(super) requests: VecDeque<PeerRequest<R>>,
    pub(super) load: Load,
}

impl<R> Default for HeldRequests<R> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), load: Load::default() }
    }
}

impl<R> HeldRequests<R> {
    pub(super) fn is_waiting(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn can_start(&self, link: &Link) -> bool {
        self.is_waiting() && !link.is_choked()
    }

    pub(super) fn push(&mut self, asked: PeerRequest<R>) {
        self.load.add(asked.size);
        self.requests.push_back(asked);
    }

    pub(super) fn pop(&mut self) -> Option<PeerRequest<R>> {
        let asked = self.requests.pop_front()?;
        self.load.remove(asked.size);
        Some(asked)
    }

    pub(super) fn remove(&mut self, number: RequestNumber) {
        if let Some(index) = self.requests.iter().position(|asked| asked.number == number)
            && let Some(asked) = self.requests.remove(index)
        {
            self.load.remove(asked.size);
        }
    }
}

/// The number of waiting messages, and their total size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    count: usize,
    bytes: usize,
    descriptors: usize,
}

impl Load {
    pub(super) fn add(&mut self, size: Size) {
        self.count += 1;
        self.bytes += size.bytes;
        self.descriptors += size.descriptors;
    }

    pub(super) fn remove(&mut self, size: Size) {
        self.count -= 1;
        self.bytes -= size.bytes;
        self.descriptors -= size.descriptors;
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
            descriptors: self.descriptors + other.descriptors,
        }
    }

    /// Returns true if another message is within the limits. It may exceed the limit of bytes, but
    /// not the limit of descriptors.
    pub(super) fn have_room(&self, link: &Link, next: Size) -> bool {
        let limits = link.limits();
        self.count < MAX_IN_FLIGHT
            && self.bytes <= limits.unsent
            && self.descriptors + next.descriptors <= limits.descriptors
    }
}

/// An incoming frame with its body decoded.
pub(super) enum Decoded<R> {
    Request(PeerRequest<R>),
    /// A request over the limit, not decoded.
    TooMuch,
    Notice(Result<R, String>, Size),
    Cancel {
        number: RequestNumber,
    },
    Control(ControlFrame),
    Outputs(Vec<Untrusted>),
    /// A frame that is not allowed now.
    Untimely(&'static str),
}

impl<R> Decoded<R> {
    pub(super) fn decode<C: Codec<R>>(codec: &C, Incoming { header, body }: Incoming<'_>) -> Self {
        let size = body.size();
        let decode = |body: Body<'_>| body.decode(codec).map_err(|error| error.to_string());
        match header {
            Header::Request { number, timeout } => {
                Self::Request(PeerRequest { number, timeout, request: decode(body), size })
            }
            Header::Notice => Self::Notice(decode(body), size),
            Header::Cancel { number } => Self::Cancel { number },
            Header::Outputs => Self::Outputs(body.descriptors),
            Header::Ready => Self::Control(ControlFrame::Ready),
            Header::Heartbeat => Self::Control(ControlFrame::Heartbeat),
            Header::HeartbeatReply { reply } => Self::Control(ControlFrame::HeartbeatReply(reply)),
            Header::Hello => Self::Untimely("a greeting at the wrong time"),
            Header::Answer { .. } | Header::Refusal { .. } => {
                Self::Untimely("an answer at the wrong time")
            }
        }
    }
}

/// A frame without a message: the state of the peer, or a question about this side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ControlFrame {
    Ready,
    Heartbeat,
    HeartbeatReply(HeartbeatReply),
}
