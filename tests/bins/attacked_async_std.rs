//! The test program `attacked` on async-std, for the tests.

extern crate release_async_std as release;

include!("../programs/attacked.rs");
