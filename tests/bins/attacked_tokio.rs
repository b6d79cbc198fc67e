//! The test program `attacked` on tokio, for the tests.

extern crate release_tokio as release;

include!("../programs/attacked.rs");
