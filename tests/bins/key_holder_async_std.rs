//! The example `key_holder` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/key_holder.rs");
