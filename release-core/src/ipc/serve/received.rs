//! Frames of the peer, decoded.

use super::Word;
use super::held::Asked;
use crate::ipc::Codec;
use crate::ipc::body::Body;
use crate::ipc::body::Size;
use crate::ipc::header::{Header, Number};
use crate::ipc::link::Incoming;
use crate::sys::untrusted::Untrusted;

/// An incoming frame with its body decoded.
pub(super) enum Received<R> {
    Asked(Asked<R>),
    /// One more request than agreed, not decoded.
    TooMuch,
    Notice(Result<R, String>, Size),
    Cancel {
        number: Number,
    },
    Word(Word),
    Outputs(Vec<Untrusted>),
    /// A frame that may not come now.
    Untimely(&'static str),
}

impl<R> Received<R> {
    pub(super) fn decode<C: Codec<R>>(codec: &C, Incoming { header, body }: Incoming<'_>) -> Self {
        let size = body.size();
        let decode = |body: Body<'_>| body.decode(codec).map_err(|error| error.to_string());
        match header {
            Header::Request { number, patience } => {
                Self::Asked(Asked { number, patience, request: decode(body), size })
            }
            Header::Notice => Self::Notice(decode(body), size),
            Header::Cancel { number } => Self::Cancel { number },
            Header::Outputs => Self::Outputs(body.descriptors),
            Header::Ready => Self::Word(Word::Ready),
            Header::Heartbeat => Self::Word(Word::Heartbeat),
            Header::HeartbeatReply { reply } => Self::Word(Word::HeartbeatReply(reply)),
            Header::Hello => Self::Untimely("a greeting at the wrong time"),
            Header::Answer { .. } | Header::Refusal { .. } => {
                Self::Untimely("an answer at the wrong time")
            }
        }
    }
}
