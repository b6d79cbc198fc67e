//! The example `http3` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/http3.rs");
