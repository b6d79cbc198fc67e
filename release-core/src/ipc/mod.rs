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

mod answers;
mod body;
mod codec;
mod descriptor;
mod error;
mod fd_slots;
mod frame;
mod header;
mod heartbeat;
pub(crate) mod hello;
pub(crate) mod limits;
pub(crate) mod link;
mod outbox;
mod peer;
pub mod plain;
pub(crate) mod serve;
pub(crate) mod shape;
pub(crate) mod state_blob;
mod timer;

pub use codec::{Codec, CodecError, Never, Postcard, Request, Text};
pub use descriptor::Descriptor;
pub use error::{CallError, Ended, ReadError, Refused, SendError};
#[cfg(feature = "fuzzing")]
pub(crate) use frame::Inbox;
pub use frame::{DEFAULT_FRAME_LIMIT, FrameTooLong};
pub(crate) use header::Header;
#[cfg(feature = "fuzzing")]
pub(crate) use header::add_descriptors;
pub(crate) use heartbeat::{Heartbeat, HeartbeatReply};
#[cfg(feature = "fuzzing")]
pub(crate) use outbox::Outbox;
pub use peer::{Peer, connect, connect_with_descriptors};
pub use shape::Shape;
