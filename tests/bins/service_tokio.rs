//! The example `service` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/service/main.rs");
