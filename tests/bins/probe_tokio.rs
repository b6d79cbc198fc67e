//! The test program `probe` on tokio.

extern crate release_tokio as release;

include!("../programs/probe/main.rs");
