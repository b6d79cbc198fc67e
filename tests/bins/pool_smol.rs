//! The test program `pool` on smol.

extern crate release_smol as release;

include!("../programs/pool.rs");
