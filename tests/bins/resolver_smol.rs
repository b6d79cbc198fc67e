//! The example `resolver` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/resolver.rs");
