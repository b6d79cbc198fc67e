//! The test program `datagrams` on tokio.

extern crate release_tokio as release;

include!("../programs/datagrams.rs");
