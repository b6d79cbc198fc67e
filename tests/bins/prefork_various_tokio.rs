//! The example `prefork_various` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/prefork_various.rs");
