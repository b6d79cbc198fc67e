//! Messages as bytes and descriptors. No I/O happens here.

pub(super) mod body;
pub(super) mod codec;
pub(super) mod descriptor;
mod fd_slots;
pub(super) mod format;
pub(super) mod frame;
pub(super) mod header;
pub(crate) mod hello;
pub(crate) mod limits;
pub(super) mod outbox;
pub(crate) mod ring;
pub(crate) mod service;
pub(crate) mod shape;
pub(crate) mod state_blob;
