//! The test program `commands` on smol, for the tests.

extern crate release_smol as release;

include!("../programs/commands.rs");
