//! The test program `pool` on tokio.

extern crate release_tokio as release;

include!("../programs/pool.rs");
