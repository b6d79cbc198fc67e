//! The test program `hooks` on async-std.

extern crate release_async_std as release;

include!("../programs/hooks.rs");
