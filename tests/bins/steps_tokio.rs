//! The test program `steps` on tokio.

extern crate release_tokio as release;

include!("../programs/steps.rs");
