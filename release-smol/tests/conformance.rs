//! smol keeps the contract.

#[test]
fn smol() {
    release_smol::rt::conformance::run(release_smol::driver);
}
