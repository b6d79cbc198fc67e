//! The test program `datagrams` on smol.

extern crate release_smol as release;

include!("../programs/datagrams.rs");
