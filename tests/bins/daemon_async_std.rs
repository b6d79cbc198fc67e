//! The example `daemon` on async-std, for the tests.

extern crate release_async_std as release;

include!("../../examples/daemon.rs");
