//! The example `prefork_simple` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/prefork_simple.rs");
