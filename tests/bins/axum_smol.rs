//! The example `axum` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/axum.rs");
