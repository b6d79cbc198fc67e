//! Both flavours of tokio keep the contract, and a runtime that the program has built.

use release_tokio::{Tokio, rt::conformance};

#[test]
fn current_thread() {
    conformance::run(Tokio::current_thread);
}

#[test]
fn multi_thread() {
    conformance::run(Tokio::multi_thread);
}

#[test]
fn built_by_the_program() {
    conformance::run(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(3).enable_all().build().map(Tokio::from)
    });
}
