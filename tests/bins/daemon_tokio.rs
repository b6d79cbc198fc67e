//! The example `daemon` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/daemon.rs");
