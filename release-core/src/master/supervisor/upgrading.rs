//! The state of an upgrade.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join;
use nix::sys::signal::Signal as Sig;

use crate::ipc::link::Link;
use crate::jobs::Follow;
use crate::master::control::ControlHandle;
use crate::master::upgrade::Tried;
use crate::process::channels::Channels;
use crate::process::hand_on::HandOn;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::untrusted::unclosed;

/// Time limit for the requests in flight before the new version takes over.
pub(super) const REST_TIME: Duration = Duration::from_secs(5);

/// Interval of the checks whether descriptors of peers are closed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An upgrade. Dropping it ends the trial, and lets connections go on.
#[derive(Debug)]
pub(super) struct Upgrading {
    pub(super) tried: Option<Tried>,
    /// Task that waits for the end of the trial, or for the requests in flight.
    pub(super) waiting: Task<()>,
    pub(super) paused: Option<Paused>,
}

/// Connections that stand still until this is dropped.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) controls: Vec<ControlHandle>,
    pub(super) jobs: JobPools,
    pub(super) hand_on: Vec<Arc<HandOn>>,
    pub(super) channels: Option<Arc<Channels>>,
}

/// The pools of jobs, each with the name of its group.
pub(super) type JobPools = Vec<(Arc<str>, Arc<dyn Follow>)>;

/// All that stands still beside the connections.
pub(super) type PausedPools = (JobPools, Vec<Arc<HandOn>>, Option<Arc<Channels>>);

impl Paused {
    pub(super) fn new(
        links: Vec<Arc<Link>>,
        controls: Vec<ControlHandle>,
        (jobs, hand_on, channels): PausedPools,
        now: Instant,
    ) -> Self {
        links.iter().for_each(|link| link.pause());
        controls.iter().for_each(|control| control.pause(now));
        jobs.iter().for_each(|(_, jobs)| jobs.pause());
        hand_on.iter().for_each(|hand_on| hand_on.pause());
        channels.iter().for_each(|channels| channels.pause());
        Self { links, controls, jobs, hand_on, channels }
    }

    /// Waits until no request is in flight. Returns whether that was in time.
    pub(super) fn rest(&self, rt: Rt) -> impl Future<Output = bool> + Send + 'static {
        let (links, controls, jobs) =
            (self.links.clone(), self.controls.clone(), self.jobs.clone());
        async move {
            let at_rest = poll_fn(|cx| {
                // All are polled, so that each can wake this task.
                let links = links.iter().filter(|link| link.poll_at_rest(cx).is_pending());
                let links = links.count();
                let served = controls.iter().filter(|served| served.poll_at_rest(cx).is_pending());
                let served = served.count();
                let jobs = jobs.iter().filter(|(_, jobs)| jobs.poll_at_rest(cx).is_pending());
                if links + served + jobs.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            // A thread that closes one would delay the exec.
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
        self.hand_on.iter().for_each(|hand_on| hand_on.resume());
        self.channels.iter().for_each(|channels| channels.resume());
        self.links.iter().for_each(|link| link.resume());
        self.controls.iter().for_each(ControlHandle::resume);
        self.jobs.iter().for_each(|(_, jobs)| jobs.resume());
    }
}

/// Returns the signals that the previous version has left.
pub(super) fn left(signals: Vec<i32>, late: Option<&OwnedFd>) -> Vec<Sig> {
    let numbers = signals.into_iter().filter_map(|number| Sig::try_from(number).ok());
    let mut all: Vec<_> = numbers.collect();
    for signal in late.map(Signals::late).unwrap_or_default() {
        // Equal signals count once, as in the kernel.
        if !all.contains(&signal) {
            all.push(signal);
        }
    }
    all
}
