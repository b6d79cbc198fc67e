//! The test program `hooks` on tokio.

extern crate release_tokio as release;

include!("../programs/hooks.rs");
