//! The example `plain` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/plain.rs");
