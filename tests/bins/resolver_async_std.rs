//! The example `resolver` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/resolver.rs");
