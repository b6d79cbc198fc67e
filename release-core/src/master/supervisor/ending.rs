//! The end of a master whose workers have ended: its main task, its children, and the last answers.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};

use super::event::MasterEvent;
use super::{Finish, LAST_ANSWERS, MasterEnd, Supervisor, insists};
use crate::Error;
use crate::master::control::ControlHandle;
use crate::master::events::ServiceEvent;
use crate::master::handle::MasterCommand;
use crate::master::signals::SignalAction;
use crate::master::systemd_notifier::SystemdNotifier;
use crate::process::child::Missed;
use crate::rt::Task;
use crate::supervise::{Outcome, Report};

/// Minimum time of the children to end, when the workers and the main task have used up the rest.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Maximum time for the followers of the events to ask for the last one.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Why a main task was cut off.
const STOPPED_AT_ONCE: &str = "it was stopped at once";

/// An event that ends the wait for something.
enum Interrupt {
    StopNow,
    Failed(Error),
}

impl Supervisor {
    /// Ends everything but the workers, which have ended.
    pub(super) async fn end(&mut self, outcome: Outcome, main: Option<Task<()>>) -> MasterEnd {
        let main = self.finish(main).await;
        let is_at_once = matches!(main, Finish::CutOff(why) if why == STOPPED_AT_ONCE);
        let children_killed = self.end_children(is_at_once).await;
        let finished = Report::Finished { outcome: outcome.clone() };
        // Requests for events wait for the next one, and the last answers would wait for them.
        let told = ServiceEvent::of(&finished, "", None);
        told.into_iter().for_each(|event| self.master.all_events().add(event));
        // A follower may be about to ask for it.
        let all_told = self.master.all_events().all_told(self.rt.now());
        let _ = self.rt.timeout(LAST_EVENTS, all_told).await;
        self.send_last_answers().await;
        Missed::none(&self.rt).await;
        self.report(&finished);
        MasterEnd { outcome, signal: self.stopped_by, main, children_killed }
    }

    /// Waits for the main task until the stop deadline or another stop signal.
    async fn finish(&mut self, main: Option<Task<()>>) -> Finish {
        let Some(main) = main else { return Finish::Done };
        let deadline = self.stop_by.unwrap_or_else(|| self.rt.now());
        let rt = self.rt.clone();
        if let Some(systemd) = &mut self.systemd {
            systemd.finishes(&self.master.pool(), rt.now());
        }
        let main = pin!(rt.timeout_at(deadline, main));
        match self.unless_interrupted(main).await {
            Ok(Ok(())) => Finish::Done,
            Ok(Err(_)) => Finish::CutOff("it took too long"),
            Err(Interrupt::Failed(error)) => Finish::Failed(error),
            Err(Interrupt::StopNow) => Finish::CutOff(STOPPED_AT_ONCE),
        }
    }

    /// Stops the children beside the workers. Returns how many of them had to be killed.
    async fn end_children(&mut self, at_once: bool) -> usize {
        self.is_ending = true;
        let now = self.rt.now();
        let rest = self.stop_by.map(|by| by.saturating_duration_since(now)).unwrap_or_default();
        let children = self.master.children().clone();
        let is_forced = at_once || self.master.pool().is_forced();
        let mut patience = if is_forced { Duration::ZERO } else { rest.max(LEAST_PATIENCE) };
        loop {
            if patience.is_zero() {
                children.kill();
            }
            let mut ended = pin!(children.end(patience));
            loop {
                match self.unless_interrupted(ended.as_mut()).await {
                    Ok(killed) => return killed,
                    Err(Interrupt::StopNow) => break,
                    Err(Interrupt::Failed(_)) => {}
                }
            }
            patience = Duration::ZERO;
        }
    }

    /// Waits for a future, unless a signal demands an immediate stop, or something fails.
    async fn unless_interrupted<F>(&mut self, mut future: F) -> Result<F::Output, Interrupt>
    where
        F: Future + Unpin,
    {
        loop {
            let now = self.rt.now();
            if let Some(systemd) = &mut self.systemd {
                systemd.beat(&self.master.pool(), now);
            }
            let beats_at = self.systemd.as_ref().and_then(SystemdNotifier::beats_at);
            let beat = pin!(async {
                match beats_at {
                    Some(at) => self.rt.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            });
            // Its failure is queued before it ends.
            let signal = pin!(self.signals.next());
            let news = select(select(self.events.next(), signal), beat);
            let news = match select(news, &mut future).await {
                Either::Left((Either::Left((news, _)), _)) => news,
                Either::Left((Either::Right(_), _)) => continue,
                Either::Right((output, _)) => return Ok(output),
            };
            match news {
                Either::Left((
                    Some(MasterEvent::TaskFailed(error) | MasterEvent::Failed(error)),
                    _,
                )) => {
                    return Err(Interrupt::Failed(error));
                }
                Either::Left((Some(MasterEvent::Command(MasterCommand::Spawn(request))), _)) => {
                    self.start_child(request);
                }
                Either::Right((Ok(signal), _)) => {
                    let action = self.config.signals.of(signal);
                    let asked = self.stop_asked_at;
                    let insists = action == SignalAction::StopNow || insists(asked, self.rt.now());
                    if action.is_stop() && (asked.is_none() || insists) {
                        return Err(Interrupt::StopNow);
                    }
                }
                Either::Left(_) | Either::Right(_) => {}
            }
        }
    }

    /// Lets the handlers that waited for the end of the workers answer, and their peers read the
    /// answers.
    async fn send_last_answers(&self) {
        let controls = &self.upgrader.controls;
        controls.iter().for_each(|control| control.pause(self.rt.now()));
        let at_rest = poll_fn(|cx| {
            // All are polled, so that each can wake this task.
            let busy = controls.iter().filter(|control| control.poll_at_rest(cx).is_pending());
            if busy.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        if self.rt.timeout(LAST_ANSWERS, at_rest).await.is_err() {
            let requests: usize = controls.iter().map(ControlHandle::unfinished).sum();
            log_warning!(requests, "control sockets are closed before the answer");
        }
    }
}
