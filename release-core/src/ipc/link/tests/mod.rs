//! Links that are handed over: at every byte, in the pause, and in a storm of messages.

mod batch;
mod bell;
mod bytes;
mod flood;
mod notes;
mod notices;
mod pausing;
mod ring;
mod room;
mod storm;

use std::future::{Future, poll_fn};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frozen::Frozen;
use super::{Link, Mode};
use crate::ipc::limits::Limits;
use crate::ipc::serve::serve;
use crate::ipc::{Descriptor, Ended, Peer, Postcard, Refused, Request, state_blob};
use crate::rt::local::Local;
use crate::rt::{Driver, Rt, Task, run};

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    number: u32,
    filling: Vec<u8>,
    descriptors: Vec<Descriptor>,
}

impl Request for Ask {
    type Response = u32;
}

impl Ask {
    fn new(number: u32) -> Self {
        Self { number, filling: Vec::new(), descriptors: Vec::new() }
    }
}

/// One side of a connection: asks, and answers.
struct Side {
    link: Arc<Link>,
    peer: Peer<Ask>,
    _serving: Task<Ended>,
}

impl Side {
    fn new<H, F>(rt: &Rt, link: Link, handler: H) -> Self
    where
        H: Fn(Ask) -> F + Send + Sync + 'static,
        F: Future<Output = Result<u32, Refused>> + Send + 'static,
    {
        let link = Arc::new(link);
        let peer = Peer::new(Arc::clone(&link), Postcard);
        let serving = serve(Arc::clone(&link), Postcard, move |ask| Ok(handler(ask)), |_| {});
        Self { link, peer, _serving: rt.spawn(serving) }
    }

    /// Pauses, waits, and takes the state out, all descriptors included.
    async fn freeze(&self, rt: &Rt) -> Frozen {
        self.link.pause();
        at_rest(rt, &self.link).await;
        self.link.freeze(None).unwrap().unwrap()
    }
}

fn limits() -> Limits {
    Limits::IPC.with_descriptors(8)
}

fn link(rt: &Rt, socket: UnixStream) -> Link {
    Link::new(rt, socket.into(), Mode::Calls, limits()).unwrap()
}

/// A link that asks for rings of so many bytes.
fn ringed(rt: &Rt, socket: UnixStream, bytes: u32) -> Link {
    let link = Link::new(rt, socket.into(), Mode::Calls, limits().with_ring(bytes)).unwrap();
    link.ask_for_rings();
    link
}

/// What another image of the process gets.
fn passed_on(frozen: Frozen) -> Frozen {
    let (bytes, descriptors) = state_blob::pack(&frozen).unwrap();
    drop(frozen);
    state_blob::unpack(&bytes, descriptors).unwrap()
}

async fn at_rest(rt: &Rt, link: &Link) {
    within(rt, poll_fn(|cx| link.poll_at_rest(cx))).await;
}

async fn within<T>(rt: &Rt, future: impl Future<Output = T>) -> T {
    rt.timeout(Duration::from_secs(10), future).await.expect("in time")
}

fn on_local<F: Future>(test: impl FnOnce(Rt) -> F) -> F::Output {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, test(rt))
}
