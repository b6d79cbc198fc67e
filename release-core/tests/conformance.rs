//! The built-in runtime keeps the contract.
#![cfg(feature = "conformance")]

use release_core::rt::{conformance, local::Local};

#[test]
fn local() {
    conformance::run(Local::new);
}
