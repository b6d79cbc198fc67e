//! The test program `steps` on smol.

extern crate release_smol as release;

include!("../programs/steps.rs");
