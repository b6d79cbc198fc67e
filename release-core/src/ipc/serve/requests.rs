//! Decoded frames of the peer, and requests that are deferred.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ipc::limits::MAX_IN_FLIGHT;
use crate::ipc::link::{Incoming, Link};
use crate::ipc::service::ServiceRequest;
use crate::ipc::wire::body::{Body, Size};
use crate::ipc::wire::header::{Header, RequestNumber};
use crate::ipc::{Codec, HeartbeatReply, Postcard};
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
    pub(super) load: WaitingMessages,
}

impl<R> Default for HeldRequests<R> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), load: WaitingMessages::default() }
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

/// Requests of the peer's library, which wait while the peer does not read its answers.
#[derive(Default)]
pub(super) struct HeldServices {
    requests: VecDeque<(RequestNumber, Box<ServiceRequest>, Size)>,
    load: WaitingMessages,
}

impl HeldServices {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Adds a request. Returns false if more wait than an honest peer sends.
    pub(super) fn push(
        &mut self,
        link: &Link,
        number: RequestNumber,
        request: Box<ServiceRequest>,
        size: Size,
    ) -> bool {
        let has_room = self.load.have_room(link, size);
        if has_room {
            self.load.add(size);
            self.requests.push_back((number, request, size));
        }
        has_room
    }

    /// Passes requests on while the peer reads.
    pub(super) fn pass_on(&mut self, link: &Link, heard: &mut dyn FnMut(Heard)) {
        while !self.requests.is_empty()
            && !link.is_choked()
            && let Some((number, request, size)) = self.requests.pop_front()
        {
            self.load.remove(size);
            heard(Heard::Service(number, request));
        }
    }

    /// Removes a cancelled request. Returns false if there is none of this number.
    pub(super) fn remove(&mut self, number: RequestNumber) -> bool {
        let index = self.requests.iter().position(|(its, _, _)| *its == number);
        let removed = index.and_then(|index| self.requests.remove(index));
        removed.is_some_and(|(_, _, size)| {
            self.load.remove(size);
            true
        })
    }
}

/// The number of waiting messages, and their total size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitingMessages {
    count: usize,
    bytes: usize,
    descriptors: usize,
}

impl WaitingMessages {
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
    /// A request of the peer's library, and its size without the socket.
    Service(RequestNumber, Result<Box<ServiceRequest>, String>, Size),
    Control(Heard),
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
            Header::Service { number } => {
                let request = match body.is_lost {
                    true => Ok(ServiceRequest::NotArrived),
                    false => body.decode(&Postcard).map_err(|error| error.to_string()),
                };
                Self::Service(number, request.map(Box::new), Size { descriptors: 0, ..size })
            }
            Header::Outputs if body.is_lost => {
                Self::Untimely("files, and no free descriptors here")
            }
            Header::Outputs => Self::Outputs(body.descriptors),
            Header::Ready => Self::Control(Heard::Ready),
            Header::Heartbeat => Self::Control(Heard::Heartbeat),
            Header::HeartbeatReply { reply } => Self::Control(Heard::HeartbeatReply(reply)),
            Header::Hello => Self::Untimely("a greeting at the wrong time"),
            Header::Ring => Self::Untimely("a ring at the wrong time"),
            Header::Answer { .. }
            | Header::Refusal { .. }
            | Header::NotUnderstood { .. }
            | Header::ServiceAnswer { .. } => Self::Untimely("an answer at the wrong time"),
        }
    }
}

/// What the peer said other than messages: its state, a question about this side, or bytes that are no
/// message.
#[derive(Debug)]
pub(crate) enum Heard {
    Ready,
    Heartbeat,
    HeartbeatReply(HeartbeatReply),
    /// A request of the peer's library.
    Service(RequestNumber, Box<ServiceRequest>),
    /// The peer's caller of that request no longer waits.
    Cancelled(RequestNumber),
    /// A message that does not decode. Reported at most once in ten seconds.
    NotUnderstood {
        why: String,
        /// Number of such messages since the last report.
        unsaid: u64,
    },
}
