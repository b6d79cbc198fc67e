//! The test program `attacked` on smol, for the tests.

extern crate release_smol as release;

include!("../programs/attacked.rs");
