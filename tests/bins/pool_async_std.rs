//! The test program `pool` on async-std.

extern crate release_async_std as release;

include!("../programs/pool.rs");
