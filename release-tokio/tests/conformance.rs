//! Both flavours of tokio keep the contract.

use release_tokio::{Tokio, rt::conformance};

#[test]
fn current_thread() {
    conformance::run(Tokio::current_thread);
}

#[test]
fn multi_thread() {
    conformance::run(Tokio::multi_thread);
}
