//! The test program `hooks` on smol.

extern crate release_smol as release;

include!("../programs/hooks.rs");
