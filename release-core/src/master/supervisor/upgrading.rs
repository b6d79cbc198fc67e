//! An upgrade that is under way.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join;
use nix::sys::signal::Signal as Sig;

use crate::ipc::link::Link;
use crate::master::control::Served;
use crate::master::upgrade::{Tried, Version};
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::untrusted::unclosed;

/// How long requests that are being answered may take when the new version is about to take over.
pub(super) const REST_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether descriptors of others are closed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An upgrade that is under way. Dropping it ends the trial, and lets connections go on.
#[derive(Debug)]
pub(super) struct Upgrading {
    pub(super) version: Version,
    pub(super) tried: Option<Tried>,
    /// Waits for the end of the trial, or until nothing is being answered.
    pub(super) waiting: Task<()>,
    pub(super) paused: Option<Paused>,
}

/// Connections that stand still until this is dropped.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) controls: Vec<Served>,
}

impl Paused {
    pub(super) fn new(links: Vec<Arc<Link>>, controls: Vec<Served>, now: Instant) -> Self {
        links.iter().for_each(|link| link.pause());
        controls.iter().for_each(|control| control.pause(now));
        Self { links, controls }
    }

    /// Waits until nothing is being answered, and returns whether that was in time.
    pub(super) fn rest(&self, rt: Rt) -> impl Future<Output = bool> + Send + 'static {
        let (links, controls) = (self.links.clone(), self.controls.clone());
        async move {
            let at_rest = poll_fn(|cx| {
                // Each is asked, or it would not wake this task.
                let links = links.iter().filter(|link| link.poll_at_rest(cx).is_pending());
                let links = links.count();
                let served = controls.iter().filter(|served| served.poll_at_rest(cx).is_pending());
                if links + served.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            // A thread that closes one would hold the exec up.
            let closed = async {
                while unclosed() > 0 {
                    rt.sleep(LOOK_AGAIN).await;
                }
            };
            rt.timeout(REST_TIME, join(at_rest, closed)).await.is_ok()
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.resume());
        self.controls.iter().for_each(Served::resume);
    }
}

/// The signals that the version before has left.
pub(super) fn left(signals: Vec<i32>, late: Option<&OwnedFd>) -> Vec<Sig> {
    let numbers = signals.into_iter().filter_map(|number| Sig::try_from(number).ok());
    let mut all: Vec<_> = numbers.collect();
    for signal in late.map(Signals::late).unwrap_or_default() {
        // Equal ones count once, as they do for the kernel.
        if !all.contains(&signal) {
            all.push(signal);
        }
    }
    all
}
