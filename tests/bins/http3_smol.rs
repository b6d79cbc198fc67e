//! The example `http3` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/http3.rs");
