//! The test program `channels` on smol.

extern crate release_smol as release;

include!("../programs/channels.rs");
