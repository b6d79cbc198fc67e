//! The test program `commands` on tokio, for the tests.

extern crate release_tokio as release;

include!("../programs/commands.rs");
