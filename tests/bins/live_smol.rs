//! The example `live` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/live.rs");
