//! `Keeper`: idle connections that go to the next workers, and connections from earlier workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use serde::{Deserialize, Serialize};

use crate::HandOnError;
use crate::log_throttle::LogThrottle;
use crate::net::Stream;
use crate::rt::Rt;
use crate::worker::ConnectionRelay;

/// Number of connections that are on their way to this worker at a time.
const AT_ONCE: usize = 8;

/// Time until the next attempt, when as many connections wait as the group may have.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A connection that a worker hands on.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptConnection {
    /// Address of the socket that has accepted it.
    listener: String,
    /// Bytes that were read and not used.
    pub(super) unread: Vec<u8>,
    /// Whether it has had no request so far.
    pub(super) is_new: bool,
    /// How long it has waited for a request, or for the rest of a head.
    pub(super) waits: Duration,
}

/// Hands connections on, and takes connections of earlier workers.
pub(super) struct Keeper {
    relay: ConnectionRelay,
    rt: Rt,
    listener: String,
    has_failed: AtomicBool,
    strangers: Mutex<LogThrottle>,
}

impl Keeper {
    pub(super) fn new(relay: ConnectionRelay, rt: Rt, listener: String) -> Self {
        let has_failed = AtomicBool::new(false);
        Self { relay, rt, listener, has_failed, strangers: Mutex::default() }
    }

    /// Hands a connection on, within this time. Returns false if it stays here.
    pub(super) async fn give(
        &self,
        stream: &Stream,
        (unread, is_new, waits): (Vec<u8>, bool, Duration),
        limit: Duration,
    ) -> bool {
        let kept = KeptConnection { listener: self.listener.clone(), unread, is_new, waits };
        let until = self.rt.after(limit);
        loop {
            match self.relay.give(stream, &kept).await {
                // Without an answer, another worker may have it.
                Ok(()) | Err(HandOnError::Lost) => return true,
                Err(HandOnError::Full) if self.rt.now() < until => self.rt.sleep(TRY_AGAIN).await,
                Err(error) => {
                    tracing::debug!(%error, "an HTTP connection stays with this worker");
                    return false;
                }
            }
        }
    }

    /// Returns the connections of earlier workers, until this one should stop.
    pub(super) fn taken(self: Arc<Self>) -> impl stream::Stream<Item = (Stream, KeptConnection)> {
        let take = |keeper: &Arc<Self>| {
            let keeper = Arc::clone(keeper);
            async move { keeper.take().await }
        };
        let waiting: FuturesUnordered<_> = (0..AT_ONCE).map(|_| take(&self)).collect();
        stream::unfold((self, waiting), move |(keeper, mut waiting)| async move {
            loop {
                if let Some(taken) = waiting.next().await? {
                    waiting.push(take(&keeper));
                    return Some((taken, (keeper, waiting)));
                }
            }
        })
    }

    async fn take(&self) -> Option<(Stream, KeptConnection)> {
        loop {
            match self.relay.take::<KeptConnection>().await {
                Ok(Some((_, kept))) if kept.listener != self.listener => self.is_strange(),
                Ok(taken) => return taken,
                Err(error) => {
                    if !self.has_failed.swap(true, Ordering::Relaxed) {
                        let reason = error.report();
                        log_warning!(reason, "idle connections are not handed on");
                    }
                    return None;
                }
            }
        }
    }

    /// A connection came that another listener of the group has accepted: it is closed.
    fn is_strange(&self) {
        let mut throttle = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unsaid) = throttle.now(self.rt.now()) {
            log_warning!(unsaid, "a connection of another listener is closed");
        }
    }
}
