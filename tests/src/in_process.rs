//! Pieces of the library in the test's own process.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

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

/// Polls a future once, so that it begins and waits if it has to.
pub async fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await
}
