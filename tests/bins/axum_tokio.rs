//! The example `axum` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/axum.rs");
