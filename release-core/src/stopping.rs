//! The word to stop, for all tasks of a process that have to know.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;

/// Done when this process is to stop: it was told to, or, for a worker, its master has gone.
///
/// Cheap to clone, for every task that has to know.
#[derive(Clone, Debug)]
pub struct Stopping(Shared<oneshot::Receiver<()>>);

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx).map(drop)
    }
}

/// The one who says stop, to all who listen.
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
