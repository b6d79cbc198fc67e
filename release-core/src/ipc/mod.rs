//! How master and workers talk: one wire, two ways to use it.
//!
//! On the wire a message is a 4-byte big-endian length and a payload, nothing else.
//!
//! * **Plain** ([`plain`]): the payload is the encoded message, and answers come in the order of the
//!   requests. Control sockets, scripts and programs in other languages speak it.
//! * **Calls** ([`Peer`]): a small header inside the payload lets many tasks share a connection.
//!   Answers come in any order, either side asks, and a caller may give up without disturbing the
//!   others. Master and workers of this library speak it.
//!
//! In call mode a message may also hold open files, as [`Descriptor`]s, if both sides allow it.
//!
//! A connection that has met a frame it cannot take (over the limit, cut short, of no known kind,
//! with descriptors that nobody asked for) is ended: what follows in the stream has no meaning.
//! A message that arrived whole but does not decode is an error of that message alone.

mod error;
pub(crate) mod link;
mod peer;
pub mod plain;
pub(crate) mod serve;
mod wire;

pub use error::{CallError, Ended, ReadError, Refused, SendError};
pub use peer::{Peer, connect, connect_with_descriptors};
pub use wire::codec::{Codec, Never, Postcard, Request, Text};
pub use wire::descriptor::Descriptor;
pub use wire::format::CodecError;
#[cfg(feature = "fuzzing")]
pub(crate) use wire::frame::Inbox;
pub use wire::frame::{DEFAULT_FRAME_LIMIT, FrameTooLong};
#[cfg(feature = "fuzzing")]
pub(crate) use wire::header::add_descriptors;
pub(crate) use wire::header::{Header, HeartbeatReply};
pub(crate) use wire::limits::Heartbeat;
#[cfg(feature = "fuzzing")]
pub(crate) use wire::outbox::Outbox;
#[cfg(feature = "fuzzing")]
pub(crate) use wire::shape;
pub use wire::shape::Shape;
pub(crate) use wire::{hello, limits, state_blob};
