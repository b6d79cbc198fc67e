//! The example `live` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/live.rs");
