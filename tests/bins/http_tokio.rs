//! The test program `http` on tokio.

extern crate release_tokio as release;

include!("../programs/http.rs");
