//! The test program `http` on async-std.

extern crate release_async_std as release;

include!("../programs/http.rs");
