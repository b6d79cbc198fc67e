//! The example `key_holder` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/key_holder.rs");
