//! The test program `probe` on smol.

extern crate release_smol as release;

include!("../programs/probe/main.rs");
