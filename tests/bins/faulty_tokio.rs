//! The test program `faulty` on tokio.

extern crate release_tokio as release;

include!("../programs/faulty.rs");
