//! The example `daemon` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/daemon.rs");
