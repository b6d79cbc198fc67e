//! `Keeper`: idle connections that go to the next workers, and connections from earlier workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use serde::{Deserialize, Serialize};

use crate::HandOnError;
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
    has_failed: AtomicBool,
}

impl Keeper {
    /// For the connections of a listener at this address.
    pub(super) fn new(relay: ConnectionRelay, rt: Rt, listener: &str) -> Self {
        Self { relay: relay.of_listener(listener), rt, has_failed: AtomicBool::new(false) }
    }

    /// Hands a connection on, within this time. Returns false if it stays here.
    pub(super) async fn give(
        &self,
        stream: &Stream,
        (unread, is_new, waits): (Vec<u8>, bool, Duration),
        limit: Duration,
    ) -> bool {
        let kept = KeptConnection { unread, is_new, waits };
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
        match self.relay.take::<KeptConnection>().await {
            Ok(taken) => taken,
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    let reason = error.report();
                    log_warning!(reason, "idle connections are not handed on");
                }
                None
            }
        }
    }
}
