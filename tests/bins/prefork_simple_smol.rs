//! The example `prefork_simple` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/prefork_simple.rs");
