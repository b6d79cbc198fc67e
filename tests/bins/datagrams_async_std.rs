//! The test program `datagrams` on async-std.

extern crate release_async_std as release;

include!("../programs/datagrams.rs");
