//! The executor of the `custom_runtime` example keeps the contract.

#[path = "../../examples/custom_runtime/executor.rs"]
mod executor;

#[test]
fn own_executor() {
    release_core::rt::conformance::run(executor::driver);
}
