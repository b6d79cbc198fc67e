//! The example `prefork_simple` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/prefork_simple.rs");
