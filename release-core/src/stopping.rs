//! The shutdown request, for all tasks of a process that wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
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
pub struct Stopping {
    requested: Shared<oneshot::Receiver<()>>,
    runs: Weak<()>,
}

impl Stopping {
    /// Returns whether this process should shut down, without waiting.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Stopping;
    ///
    /// /// Adds up, on a thread that waits for no future.
    /// fn sum(numbers: &[u64], stopping: &Stopping) -> Option<u64> {
    ///     numbers.iter().try_fold(0, |sum, number| (!stopping.is_stopping()).then_some(sum + number))
    /// }
    /// ```
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.runs.strong_count() == 0
    }
}

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.requested.poll_unpin(cx).map(drop)
    }
}

/// The sender of the shutdown request, to all listeners.
#[derive(Debug)]
pub(crate) struct Stop(Mutex<Option<(Runs, oneshot::Sender<()>)>>);

/// Dropped before the sender: when the future completes, `is_stopping` is true.
type Runs = Arc<()>;

pub(crate) fn stop_channel() -> (Stop, Stopping) {
    let (sender, receiver) = oneshot::channel();
    let runs = Runs::default();
    let stopping = Stopping { requested: receiver.shared(), runs: Arc::downgrade(&runs) };
    (Stop(Mutex::new(Some((runs, sender)))), stopping)
}

impl Stop {
    pub(crate) fn now(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_future_agree() {
        let (stop, stopping) = stop_channel();
        assert!(!stopping.is_stopping() && stopping.clone().now_or_never().is_none());
        stop.now();
        assert!(stopping.is_stopping() && stopping.clone().now_or_never().is_some());
        let (stop, stopping) = stop_channel();
        drop(stop);
        assert!(stopping.is_stopping() && stopping.now_or_never().is_some());
    }
}
