//! The example `prefork_various` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/prefork_various.rs");
