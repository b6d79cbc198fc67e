//! Frames of the peer, decoded.

use super::Word;
use super::held::Asked;
use crate::ipc::Codec;
use crate::ipc::body::Body;
use crate::ipc::body::Size;
use crate::ipc::header::Number;
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
    Hello,
    Outputs(Vec<Untrusted>),
}

impl<R> Received<R> {
    pub(super) fn decode<C: Codec<R>>(codec: &C, incoming: Incoming<'_>) -> Self {
        let decode = |body: Body<'_>| body.decode(codec).map_err(|error| error.to_string());
        match incoming {
            Incoming::Request { number, patience, body } => {
                let size = body.size();
                Self::Asked(Asked { number, patience, request: decode(body), size })
            }
            Incoming::Notice(body) => {
                let size = body.size();
                Self::Notice(decode(body), size)
            }
            Incoming::Cancel { number } => Self::Cancel { number },
            Incoming::Outputs(files) => Self::Outputs(files),
            Incoming::Ready => Self::Word(Word::Ready),
            Incoming::Pulse => Self::Word(Word::Pulse),
            Incoming::Beat(beat) => Self::Word(Word::Beat(beat)),
            Incoming::Hello(_) => Self::Hello,
        }
    }
}
