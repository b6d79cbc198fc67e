//! The example `port_broker` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/port_broker.rs");
