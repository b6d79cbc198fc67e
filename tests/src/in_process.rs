//! Pieces of the library in the test's own process.

use release_core::rt::{Driver, Rt, run};

use crate::{Backend, DEADLINE};

/// Runs a piece of the library in this process, on a backend.
pub fn in_process<T>(backend: Backend, body: impl FnOnce(&dyn Driver) -> T) -> T {
    match backend {
        Backend::Tokio => body(&release_tokio::driver().expect("a driver")),
        Backend::Smol => body(&release_smol::driver().expect("a driver")),
        Backend::AsyncStd => body(&release_async_std::driver().expect("a driver")),
    }
}

/// Runs an async test on a backend, and fails when it hangs.
#[track_caller]
pub fn run_on<F: Future<Output = ()>>(backend: Backend, test: impl FnOnce(Rt) -> F) {
    in_process(backend, |driver| {
        let rt = driver.handle();
        let done = run(driver, async { rt.timeout(DEADLINE, test(rt.clone())).await });
        assert!(done.is_ok(), "it hangs");
    });
}
