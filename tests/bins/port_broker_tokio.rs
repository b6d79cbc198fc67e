//! The example `port_broker` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/port_broker.rs");
