//! The example `http3` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/http3.rs");
