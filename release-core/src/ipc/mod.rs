//! Messages between processes over stream sockets, in two modes.
//!
//! In both modes, a frame on the wire is a 4-byte big-endian length followed by a payload.
//!
//! * **Plain mode** ([`plain`]): The payload is the encoded message, and answers come in the order
//!   of the requests. Use it for control sockets, scripts and programs in other languages.
//! * **Call mode** ([`Peer`]): A small header in the payload lets many tasks share a connection.
//!   Answers come in any order, both sides can send requests, and a cancelled call does not affect
//!   the others. Master and workers use this mode.
//!
//! In call mode a message may also contain open files, as [`Descriptor`]s, if both sides allow it.
//!
//! A frame that is too long, truncated, of an unknown kind, or that carries descriptors without
//! permission ends the connection. A complete message that does not decode is an error of this
//! message only.
//!
//! # Examples
//!
//! A call through the [codec](Codec) for text:
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use release_core::ipc::{Text, connect};
//! use release_core::rt::{Driver, local::Local, run};
//!
//! let driver = Local::new()?;
//! let (here, there) = UnixStream::pair()?;
//! run(&driver, async {
//!     let rt = driver.handle();
//!     let upper = |text: String| async move { Ok(text.to_uppercase()) };
//!     let (_, _serving) = connect::<String, String, _, _, _>(&rt, there.into(), Text, upper)?;
//!     let (peer, _task) = connect::<String, String, _, _, _>(&rt, here.into(), Text, upper)?;
//!     let answer = peer.call(&"hello".to_owned()).await;
//!     assert_eq!(answer.ok().as_deref(), Some("HELLO"));
//!     Ok::<(), std::io::Error>(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

pub(crate) mod channel;
mod connect;
mod error;
pub(crate) mod link;
mod one_of;
mod peer;
pub mod plain;
pub(crate) mod serve;
pub(crate) mod service;
mod wire;

pub use connect::{ConnectOptions, connect};
pub use error::{CallError, Ended, ReadError, Refused, SendError};
pub use one_of::OneOf;
pub use peer::Peer;
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
pub use wire::shape::Shape;
pub(crate) use wire::{hello, limits, state_blob};
#[cfg(feature = "fuzzing")]
pub(crate) use wire::{ring, shape};
