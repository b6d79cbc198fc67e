//! The test program `channels` on tokio.

extern crate release_tokio as release;

include!("../programs/channels.rs");
