//! The test program `steps` on async-std.

extern crate release_async_std as release;

include!("../programs/steps.rs");
