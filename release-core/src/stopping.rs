//! The shutdown request, for all tasks of a process that wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;

/// A future that completes when this process should shut down: shutdown was requested or, in a
/// worker, the connection to the master was lost.
///
/// Cheap to clone, so you can give one to every task that waits for it.
///
/// # Examples
///
/// ```
/// use release_core::Stopping;
/// use release_core::rt::Rt;
///
/// async fn clean_up_regularly(rt: Rt, stopping: Stopping) {
///     // `Ok` as soon as the process should shut down.
///     while rt.timeout(std::time::Duration::from_secs(60), stopping.clone()).await.is_err() {
///         println!("cleaning up");
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Stopping(Shared<oneshot::Receiver<()>>);

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx).map(drop)
    }
}

/// The sender of the shutdown request, to all listeners.
#[derive(Debug)]
pub(crate) struct Stop(Mutex<Option<oneshot::Sender<()>>>);

pub(crate) fn stop_channel() -> (Stop, Stopping) {
    let (sender, receiver) = oneshot::channel();
    (Stop(Mutex::new(Some(sender))), Stopping(receiver.shared()))
}

impl Stop {
    pub(crate) fn now(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
