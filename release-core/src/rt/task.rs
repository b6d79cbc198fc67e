//! `Task`: what a spawned future leaves with the one who spawned it.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::RemoteHandle;

use super::BoxFuture;

/// A spawned task, and the future of its output.
///
/// Dropping it cancels the task at its next suspension point; [`detach`](Task::detach) lets it run
/// on by itself. Awaiting a task that panicked panics with the same payload.
#[derive(Debug)]
#[must_use = "dropping a task cancels it; detach it to let it run"]
pub struct Task<T: 'static>(RemoteHandle<Outcome<T>>);

type Outcome<T> = Result<T, Box<dyn Any + Send>>;

impl<T: Send + 'static> Task<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> (Self, BoxFuture) {
        let future = async {
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            if let Err(panic) = &outcome {
                tracing::error!(panic = panic_message(panic.as_ref()), "a task panicked");
            }
            outcome
        };
        let (remote, handle) = future.remote_handle();
        (Self(handle), Box::pin(remote))
    }

    /// Lets the task run to its end without anybody waiting for it.
    pub fn detach(self) {
        self.0.forget();
    }
}

impl<T: 'static> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0
            .poll_unpin(cx)
            .map(|outcome| outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
