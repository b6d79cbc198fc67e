//! The example `plain` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/plain.rs");
