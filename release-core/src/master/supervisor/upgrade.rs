//! Carries out an upgrade: the trial, the pause, and the handover to the next version.

use std::convert::Infallible;

use nix::sys::signal::Signal as Sig;

use super::Supervisor;
use super::event::MasterEvent;
use super::upgrading::{Paused, REST_TIME, Upgrading};
use crate::master::control::ControlHandle;
use crate::master::signals::SignalAction;
use crate::master::upgrade::{Blocked, Tried};
use crate::streams;
use crate::supervise::Event;
use crate::sys::untrusted::unclosed;
use crate::{Error, ErrorKind};

impl Supervisor {
    /// Starts the trial, in which the new version reports whether it could take over.
    pub(super) fn try_upgrade(&mut self) {
        let snapshot = self.master.pool().snapshot(self.clock.read(self.rt.now()));
        let groups = self.processes.groups();
        let kept = self.processes.sample();
        match kept.and_then(|kept| self.upgrader.try_out(snapshot, groups, kept)) {
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

    /// Keeps the result of the trial.
    pub(super) fn tried(&mut self, tried: Tried) -> Event {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.tried = Some(tried);
        }
        Event::Tried(Ok(()))
    }

    /// Pauses the connections, and waits for the requests in flight.
    pub(super) fn begin_handover(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let (links, controls) = (self.processes.links(), self.upgrader.controls.clone());
        let (rt, sender) = (self.rt.clone(), self.sender.clone());
        let processes = &self.processes;
        let pools = (processes.job_pools(), processes.hand_on_pools(), processes.channels());
        let paused = Paused::new(links, controls, pools, rt.now());
        let rest = paused.rest(rt);
        upgrade.paused = Some(paused);
        upgrade.waiting = self.rt.spawn(async move {
            let _ = sender.unbounded_send(MasterEvent::AtRest { in_time: rest.await });
        });
    }

    /// Hands over, now that no request is in flight. Earlier events are handled first.
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
        self.processes.resume();
        Event::NotHandedOver { reason: refused.report() }
    }

    /// Names the connections that are not at rest.
    fn restless(&self, paused: &Paused) -> Error {
        let links = paused.links.iter().filter(|link| link.unfinished() > 0);
        let workers = links.map(|link| match self.processes.worker_of(link) {
            Some(id) => format!("{} requests of worker {id}", link.unfinished()),
            None => format!("{} requests of a worker that ended", link.unfinished()),
        });
        let controls =
            paused.controls.iter().map(ControlHandle::unfinished).filter(|count| *count > 0);
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

    /// Becomes the new version. Until the exec, nothing waits and nothing else runs on this thread.
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
        // A pending request for an upgrade is being carried out.
        self.deferred.extend(pending);
        let is_other = |signal: &&Sig| self.config.signals.of(**signal) != SignalAction::Upgrade;
        kept.signals = self.deferred.iter().filter(is_other).map(|signal| *signal as i32).collect();
        kept.late_signals = Some(late.into());
        tracing::info!("the new version takes over");
        kept.journal = self.journal.keep();
        kept.streams = streams::leave();
        let left = self.upgrader.leave(tried, snapshot, self.processes.groups(), kept);
        drop(blocked);
        left
    }
}
