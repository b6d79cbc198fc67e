//! `Crowd`: the clients of the page. However many there are, the next one gets an answer soon.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::net::Stream;
use crate::rt::Rt;

/// Maximum number of clients at a time. Further ones wait in the listener's queue.
pub(super) const MOST_CLIENTS: usize = 128;

/// Maximum number of clients whose connections stay open after an answer. With those that follow the
/// events, they leave a quarter of the places to clients that come and go.
const MOST_KEPT: usize = 64;

/// Number of clients with which a connection without a request makes place for others.
const CROWDED: usize = 96;

/// How long such a connection has nevertheless.
const PATIENCE: Duration = Duration::from_millis(250);

/// Time limit for the head of a request. A connection without one is over a little earlier: at this time the
/// server would call it a failure.
pub(super) const HEAD: Duration = Duration::from_secs(5);

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// The number of clients that are connected.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<AtomicUsize>);

/// The place of a client, until this is dropped.
pub(super) struct CrowdPlace(Arc<AtomicUsize>);

impl Crowd {
    pub(super) fn enter(&self) -> CrowdPlace {
        self.0.fetch_add(1, Ordering::Relaxed);
        CrowdPlace(Arc::clone(&self.0))
    }

    /// Returns whether the connection of an answer may stay open.
    pub(super) fn may_stay(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= MOST_KEPT
    }

    /// Receives the first request of a connection, at least its head. Returns nothing if the client has
    /// gone, takes too long, or if others need its place.
    pub(super) async fn first_request(&self, rt: &Rt, client: &Stream) -> Vec<u8> {
        let arrives = pin!(receive_head(client));
        let gives_way = pin!(async {
            let end = rt.now() + HEAD - PATIENCE * 2;
            while rt.now() < end {
                rt.sleep(PATIENCE).await;
                if self.0.load(Ordering::Relaxed) >= CROWDED {
                    return;
                }
            }
        });
        match select(arrives, gives_way).await {
            Either::Left((request, _)) => request,
            Either::Right(_) => Vec::new(),
        }
    }
}

impl Drop for CrowdPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Receives until the head is complete, or too long for the server that reads it next.
async fn receive_head(client: &Stream) -> Vec<u8> {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    loop {
        match client.read_once(&mut part).await {
            Ok(count) if count > 0 => request.extend_from_slice(&part[..count]),
            _ => return Vec::new(),
        }
        // It may end a line with LF alone.
        let is_end = |window: &[u8]| window == b"\n\n" || window == b"\n\r\n";
        let ends = request.windows(2).any(is_end) || request.windows(3).any(is_end);
        if ends || request.len() > LONGEST_HEAD {
            return request;
        }
    }
}
