//! The test program `faulty` on smol.

extern crate release_smol as release;

include!("../programs/faulty.rs");
