//! The example `live` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/live.rs");
