//! The example `port_broker` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/port_broker.rs");
