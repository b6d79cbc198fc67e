//! The test program `probe` on async-std.

extern crate release_async_std as release;

include!("../programs/probe/main.rs");
