//! The example `prefork_http` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/prefork_http.rs");
