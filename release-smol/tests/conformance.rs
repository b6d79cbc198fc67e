//! smol keeps the contract.

#[test]
fn smol() {
    release_smol::rt::conformance::run(release_smol::driver);
}

#[test]
fn with_an_executor_of_the_program() {
    let driver = || release_smol::Smol::try_from(std::sync::Arc::new(smol::Executor::new()));
    release_smol::rt::conformance::run(driver);
}
