//! The example `key_holder` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/key_holder.rs");
