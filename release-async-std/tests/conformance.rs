//! async-std keeps the contract.

#[test]
fn async_std() {
    release_async_std::rt::conformance::run(release_async_std::driver);
}
