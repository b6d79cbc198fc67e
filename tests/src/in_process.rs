//! Pieces of the library in the test's own process.

use release_core::rt::Driver;

use crate::Backend;

/// Runs a piece of the library in this process, on a backend.
pub fn in_process<T>(backend: Backend, body: impl FnOnce(&dyn Driver) -> T) -> T {
    match backend {
        Backend::Tokio => body(&release_tokio::driver().expect("a driver")),
        Backend::Smol => body(&release_smol::driver().expect("a driver")),
        Backend::AsyncStd => body(&release_async_std::driver().expect("a driver")),
    }
}
