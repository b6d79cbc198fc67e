//! Carries out an upgrade: the trial, the pause, and the handover to the next version.

use std::convert::Infallible;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join;
use nix::sys::signal::Signal as Sig;

use super::{MasterEvent, Supervisor};
use crate::ipc::link::Link;
use crate::jobs::Follow;
use crate::master::control::Served;
use crate::master::upgrade::{Blocked, Tried};
use crate::rt::Task;
use crate::signals::Signals;
use crate::streams;
use crate::supervise::Event;
use crate::sys::untrusted::unclosed;
use crate::{Error, ErrorKind};

/// How long requests that are being answered may take when the new version is about to take over.
const REST_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether descriptors of others are closed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An upgrade that is under way. Dropping it ends the trial, and lets connections go on.
#[derive(Debug)]
pub(super) struct Upgrading {
    tried: Option<Tried>,
    /// Waits for the end of the trial, or until nothing is being answered.
    waiting: Task<()>,
    paused: Option<Paused>,
}

/// Connections that stand still until this is dropped.
#[derive(Debug)]
struct Paused {
    links: Vec<Arc<Link>>,
    controls: Vec<Served>,
    jobs: JobPools,
}

/// The pools of jobs, each with the name of its group.
type JobPools = Vec<(Arc<str>, Arc<dyn Follow>)>;

impl Paused {
    fn new(links: Vec<Arc<Link>>, controls: Vec<Served>, jobs: JobPools, now: Instant) -> Self {
        links.iter().for_each(|link| link.pause());
        controls.iter().for_each(|control| control.pause(now));
        jobs.iter().for_each(|(_, jobs)| jobs.pause());
        Self { links, controls, jobs }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.resume());
        self.controls.iter().for_each(Served::resume);
        self.jobs.iter().for_each(|(_, jobs)| jobs.resume());
    }
}

impl Supervisor {
    /// Lets the new version say whether it could take over.
    pub(super) fn try_upgrade(&mut self) {
        let snapshot = self.master.pool().snapshot(self.clock.read(self.rt.now()));
        let groups = self.processes.groups();
        let kept = self.processes.sample();
        match kept.and_then(|kept| self.estate.try_out(snapshot, groups, kept)) {
            Ok(trial) => {
                let (rt, sender) = (self.rt.clone(), self.sender.clone());
                let waiting = self.rt.spawn(async move {
                    let outcome = trial.end(rt).await;
                    let _ = sender.unbounded_send(match outcome {
                        Ok(tried) => MasterEvent::Tried(Box::new(tried)),
                        Err(why) => MasterEvent::Pool(Event::Tried(Err(why))),
                    });
                });
                self.upgrade = Some(Upgrading { tried: None, waiting, paused: None });
            }
            Err(error) => {
                let tried = Event::Tried(Err(error.report()));
                let _ = self.sender.unbounded_send(MasterEvent::Pool(tried));
            }
        }
    }

    /// Keeps what the master will become.
    pub(super) fn tried(&mut self, tried: Tried) -> Event {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.tried = Some(tried);
        }
        Event::Tried(Ok(()))
    }

    /// Has everybody finish what they are answering.
    pub(super) fn begin_handover(&mut self) {
        let (links, controls) = (self.processes.links(), self.estate.controls.clone());
        let (rt, sender) = (self.rt.clone(), self.sender.clone());
        let (restless, served) = (links.clone(), controls.clone());
        let jobs = self.processes.job_pools();
        let paused = Paused::new(links, controls, jobs.clone(), rt.now());
        let Some(upgrade) = &mut self.upgrade else { return };
        upgrade.paused = Some(paused);
        upgrade.waiting = self.rt.spawn(async move {
            let at_rest = poll_fn(|cx| {
                // Each is asked, or it would not wake this task.
                let links = restless.iter().filter(|link| link.poll_at_rest(cx).is_pending());
                let links = links.count();
                let served = served.iter().filter(|served| served.poll_at_rest(cx).is_pending());
                let served = served.count();
                let jobs = jobs.iter().filter(|(_, jobs)| jobs.poll_at_rest(cx).is_pending());
                if links + served + jobs.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            // A thread that closes one would hold the exec up.
            let closed = async {
                while unclosed() > 0 {
                    rt.sleep(LOOK_AGAIN).await;
                }
            };
            let in_time = rt.timeout(REST_TIME, join(at_rest, closed)).await.is_ok();
            let _ = sender.unbounded_send(MasterEvent::AtRest { in_time });
        });
    }

    /// Hands over, now that no request is in flight; events that happened meanwhile come first.
    pub(super) fn at_rest(&mut self, in_time: bool) -> Event {
        if let Ok(earlier) = self.events.try_recv() {
            let _ = self.sender.unbounded_send(MasterEvent::AtRest { in_time });
            return self.handle_event(earlier);
        }
        let Some(Upgrading { tried: Some(tried), paused: Some(paused), .. }) = self.upgrade.take()
        else {
            return Event::Tick;
        };
        let refused = match in_time {
            true => match self.hand_over(tried, &paused) {
                Ok(never) => match never {},
                Err(error) => error,
            },
            false => self.restless(&paused),
        };
        drop(paused);
        Event::NotHandedOver { reason: refused.report() }
    }

    /// Names the connections that are not at rest.
    fn restless(&self, paused: &Paused) -> Error {
        let links = paused.links.iter().filter(|link| link.unfinished() > 0);
        let workers = links.map(|link| match self.processes.worker_of(link) {
            Some(id) => format!("{} requests of worker {id}", link.unfinished()),
            None => format!("{} requests of a worker that ended", link.unfinished()),
        });
        let controls = paused.controls.iter().map(Served::unfinished).filter(|count| *count > 0);
        let controls = controls.map(|count| format!("{count} requests on a control socket"));
        let jobs = paused.jobs.iter().map(|(name, jobs)| (name, jobs.unfinished()));
        let jobs = jobs.filter(|(_, count)| *count > 0);
        let jobs = jobs.map(|(name, count)| format!("{count} jobs of group `{name}`"));
        let unclosed = Some(unclosed()).filter(|count| *count > 0);
        let unclosed = unclosed.map(|count| format!("{count} descriptors that cannot be closed"));
        let all: Vec<_> = workers.chain(controls).chain(jobs).chain(unclosed).collect();
        let message = format!("still answering after {REST_TIME:?}: {}", all.join(", "));
        Error::new(ErrorKind::Change, message)
    }

    /// Becomes the new version. From here to the exec nothing waits, and nothing else runs on this
    /// thread.
    fn hand_over(&mut self, tried: Tried, paused: &Paused) -> Result<Infallible, Error> {
        let blocked = Blocked::all()?;
        let mut kept = self.processes.freeze()?;
        for control in &paused.controls {
            kept.controls.push(control.freeze()?);
        }
        let snapshot = self.master.pool().snapshot(self.clock.read(self.rt.now()));
        let (pending, late) = self
            .signals
            .hand_over()
            .map_err(|error| Error::system("cannot hand signals over", error))?;
        // A wish for an upgrade is about to be granted.
        self.deferred.extend(pending);
        let deferred = self.deferred.iter().filter(|signal| **signal != Sig::SIGUSR1);
        kept.signals = deferred.map(|signal| *signal as i32).collect();
        kept.late_signals = Some(late.into());
        tracing::info!("the new version takes over");
        kept.streams = streams::leave();
        let left = self.estate.leave(tried, snapshot, self.processes.groups(), kept);
        drop(blocked);
        left
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
