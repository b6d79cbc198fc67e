//! The example `service` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/service/main.rs");
