//! The test program `faulty` on async-std.

extern crate release_async_std as release;

include!("../programs/faulty.rs");
