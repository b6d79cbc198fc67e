//! Waiting, between one decision and the next.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, select};

use super::{MasterEvent, Supervisor};
use crate::guard::{BUSY_TIME, told_busy};
use crate::master::systemd_notifier::Service;
use crate::supervise::Event;

/// How often it is measured what processes have used.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Waits for the next event, which may be a deadline.
    pub(super) async fn next(&mut self) -> MasterEvent {
        let now = self.rt.now();
        if let Some(service) = &mut self.service {
            service.beat(&self.master.pool(), now);
        }
        if let Some(at) = self.measure_at.filter(|at| *at <= now) {
            // It may have had no turn between one wait and the next.
            self.noticed(at, now);
            self.measure_at = Some(now + MEASURE_EVERY);
            self.measured = self.measured.wrapping_add(1);
            return MasterEvent::Pool(self.processes.measure(self.measured));
        }
        let (of_pool, is_handing_over) = {
            let pool = self.master.pool();
            (pool.deadline().map(|at| self.clock.real(at)), pool.is_handing_over())
        };
        let beats_at = self.service.as_ref().and_then(Service::beats_at);
        let of_pool = self.clock.deadline(of_pool);
        let deadline = of_pool.into_iter().chain(self.measure_at).chain(beats_at).min();
        if !is_handing_over && !self.deferred.is_empty() {
            return MasterEvent::Signal(self.deferred.remove(0));
        }
        let event = self.event_until(deadline).await;
        if let Some(deadline) = deadline {
            self.noticed(deadline, self.rt.now());
        }
        event
    }

    async fn event_until(&mut self, deadline: Option<Instant>) -> MasterEvent {
        let signal = pin!(async { MasterEvent::caught(self.signals.next().await) });
        let either = select(self.events.next(), signal);
        let event = match deadline {
            None => Either::Left(either.await),
            Some(deadline) => {
                let timer = pin!(self.rt.sleep_until(deadline));
                match select(either, timer).await {
                    Either::Left((event, _)) => Either::Left(event),
                    Either::Right(_) => Either::Right(()),
                }
            }
        };
        match event {
            Either::Left(Either::Left((Some(event), _)) | Either::Right((event, _))) => event,
            // This side holds a sender, so the channel does not end: nothing means time has passed.
            Either::Left(Either::Left((None, _))) | Either::Right(()) => {
                MasterEvent::Pool(Event::Tick)
            }
        }
    }

    /// Something that was due at this time is noticed now: this process may have been held up.
    fn noticed(&mut self, due: Instant, now: Instant) {
        self.clock.noticed(due, now);
        let told = std::mem::replace(&mut self.told_busy, told_busy());
        let late = now.saturating_duration_since(due).saturating_sub(self.told_busy - told);
        if late >= BUSY_TIME {
            let seconds = late.as_secs_f64();
            log_warning!("the master was busy for {seconds:.1} s, or held up: it had no turn");
        }
    }
}
