//! The example `hello` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/hello.rs");
