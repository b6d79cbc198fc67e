//! The test program `channels` on async-std.

extern crate release_async_std as release;

include!("../programs/channels.rs");
