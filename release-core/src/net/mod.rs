//! Sockets on any runtime, written once over readiness.

mod listener;
mod stream;

pub use listener::Listener;
pub use stream::{Read, Stream};
