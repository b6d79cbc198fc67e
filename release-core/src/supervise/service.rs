//! What systemd is told: the reports of a master as its messages.

use std::io;
use std::time::{Duration, Instant};

use super::{Pool, Report, State};
use crate::seldom::Seldom;
use crate::systemd::Notifier;

/// How much longer than its deadline a stop may take before systemd kills what is left.
const MARGIN: Duration = Duration::from_secs(5);

/// The signs of life leave time for other work, however often they are wanted.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// Tells systemd how the service is.
#[derive(Debug)]
pub(crate) struct Service {
    notifier: Notifier,
    stop_deadline: Duration,
    /// How often it wants a sign of life, and when it gets the next one.
    watchdog: Option<(Duration, Instant)>,
    phase: Phase,
    /// When to say again that systemd does not hear.
    unheard: Seldom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    /// In a reload or an upgrade that systemd knows of.
    Changing,
    Stopping,
}

impl Service {
    /// `is_change` says that this version takes over from an earlier one.
    pub(crate) fn new(
        notifier: Notifier,
        watchdog: Option<Duration>,
        stop_deadline: Duration,
        is_change: bool,
        now: Instant,
    ) -> Self {
        let phase = if is_change { Phase::Changing } else { Phase::Starting };
        // Twice in the time, as is the custom.
        let watchdog = watchdog.map(|time| ((time / 2).max(SHORTEST_BEAT), now));
        Self { notifier, stop_deadline, watchdog, phase, unheard: Seldom::default() }
    }

    pub(super) fn told(&mut self, report: &Report, pool: &Pool, now: Instant) {
        if let Err(error) = self.tell(report, pool, now) {
            tracing::warn!(%error, "systemd was not told");
        }
    }

    fn tell(&mut self, report: &Report, pool: &Pool, now: Instant) -> io::Result<()> {
        match (report, self.phase) {
            (Report::AllReady, Phase::Starting) => {
                self.notifier.main_pid(std::process::id())?;
                self.serves(pool, now, "")
            }
            (Report::Reloading { .. } | Report::Upgrading, Phase::Serving) => {
                self.phase = Phase::Changing;
                self.notifier.reloading()
            }
            (Report::Reloaded { .. } | Report::Upgraded { .. }, _) => self.changed(pool, now, ""),
            (
                Report::RolledBack { reason, .. }
                | Report::ReloadRefused { reason }
                | Report::UpgradeRefused { reason }
                | Report::UpgradeRolledBack { reason, .. },
                _,
            ) => self.changed(pool, now, &format!("; as before, since {reason}")),
            (
                Report::Stopping { .. } | Report::Failing { .. } | Report::Finished { .. },
                Phase::Starting | Phase::Serving | Phase::Changing,
            ) => self.stops(pool, now),
            // While it serves, this would be about how long it may run at all.
            (
                Report::Extended { time, .. },
                Phase::Starting | Phase::Changing | Phase::Stopping,
            ) => self.notifier.extend_timeout(time.saturating_add(MARGIN)),
            (Report::Ready { .. } | Report::Died { .. }, Phase::Serving) => {
                self.notifier.status(&state(pool, now, ""))
            }
            // Said already, in a phase that does not ask for it, or not worth telling.
            (
                Report::AllReady
                | Report::Reloading { .. }
                | Report::Upgrading
                | Report::Stopping { .. }
                | Report::Failing { .. }
                | Report::Finished { .. }
                | Report::Extended { .. }
                | Report::Ready { .. }
                | Report::Died { .. }
                | Report::Starting
                | Report::Started { .. }
                | Report::SpawnFailed { .. }
                | Report::Stops { .. }
                | Report::Killed { .. }
                | Report::OverLimit { .. }
                | Report::TooFast { .. }
                | Report::Resized { .. },
                _,
            ) => Ok(()),
        }
    }

    /// The service stops, whoever asked for it or whatever failed: it has the time that its processes
    /// have, some of which were granted more.
    fn stops(&mut self, pool: &Pool, now: Instant) -> io::Result<()> {
        self.phase = Phase::Stopping;
        self.notifier.stopping()?;
        let granted = pool.stops_by().map(|at| at.saturating_duration_since(now));
        let time = granted.unwrap_or_default().max(self.stop_deadline);
        self.notifier.extend_timeout(time.saturating_add(MARGIN))
    }

    /// A change has ended, also one that was refused before anything was changed: systemd waits for
    /// a beginning and an end whoever asked.
    fn changed(&mut self, pool: &Pool, now: Instant, why: &str) -> io::Result<()> {
        match self.phase {
            Phase::Serving => self.notifier.reloading()?,
            Phase::Changing => {}
            Phase::Starting | Phase::Stopping => return Ok(()),
        }
        self.serves(pool, now, why)
    }

    fn serves(&mut self, pool: &Pool, now: Instant, why: &str) -> io::Result<()> {
        self.phase = Phase::Serving;
        // Before, so that whoever waits for the end of the change sees it.
        self.notifier.status(&state(pool, now, why))?;
        self.notifier.ready()
    }

    /// When [`beat`](Service::beat) has something to do next.
    pub(super) fn beats_at(&self) -> Option<Instant> {
        self.watchdog.map(|(_, at)| at)
    }

    /// Gives systemd its sign of life, if it is time and the service is well.
    pub(super) fn beat(&mut self, pool: &Pool, now: Instant) {
        let Some((interval, at)) = &mut self.watchdog else { return };
        if *at > now {
            return;
        }
        *at = now + *interval;
        let is_under_way = matches!(self.phase, Phase::Starting | Phase::Stopping);
        if (is_under_way || is_well(pool, now))
            && let Err(error) = self.notifier.watchdog()
            && let Some(unsaid) = self.unheard.now(now)
        {
            tracing::warn!(%error, unsaid, "systemd got no sign of life");
        }
    }
}

fn state(pool: &Pool, now: Instant, why: &str) -> String {
    let workers = pool.status(now);
    let ready = workers.iter().filter(|worker| worker.state == State::Ready).count();
    let (all, generation) = (workers.len(), pool.generation());
    format!("{ready} of {all} workers ready, generation {generation}{why}")
}

/// Whether every group that has workers has one that serves, or is about to.
fn is_well(pool: &Pool, now: Instant) -> bool {
    let workers = pool.status(now);
    let is_up = |state| matches!(state, State::Ready | State::Starting);
    let serves =
        |group: &str| workers.iter().any(|other| other.group == group && is_up(other.state));
    workers.iter().all(|worker| is_up(worker.state) || serves(worker.group))
}
