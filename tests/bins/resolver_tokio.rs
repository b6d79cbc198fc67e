//! The example `resolver` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/resolver.rs");
