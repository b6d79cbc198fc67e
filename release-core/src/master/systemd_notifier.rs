//! Notifications to systemd: the reports of a master as its messages.

use std::io;
use std::time::{Duration, Instant};

use super::health::not_live;
use crate::log_throttle::LogThrottle;
use crate::supervise::{Pool, Report, State};
use crate::systemd::{MessageKind, Notifier, Unsent, reloading, status_line};

/// Time that a stop may take beyond its deadline before systemd kills the rest.
const MARGIN: Duration = Duration::from_secs(5);

/// Minimum between two watchdog messages: there must be time for other work.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// Time after which an unsent message is sent again.
const ROOM_TIME: Duration = Duration::from_millis(100);
const ERROR_TIME: Duration = Duration::from_secs(5);

/// Notifies systemd of the state of the service, and never waits for it.
#[derive(Debug)]
pub(crate) struct SystemdNotifier {
    notifier: Notifier,
    stop_deadline: Duration,
    /// Interval of the watchdog, and the time of its next message.
    watchdog: Option<(Duration, Instant)>,
    phase: Phase,
    unsent: Unsent,
    /// Time of the next attempt to send the unsent messages.
    again: Option<Instant>,
    /// Limits the log lines about a systemd that does not receive.
    unheard: LogThrottle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    /// A reload or an upgrade that systemd knows of.
    Changing,
    Stopping,
}

impl SystemdNotifier {
    /// Creates the notifier; `is_change` if this version takes over from an earlier one.
    pub(crate) fn new(
        notifier: Notifier,
        watchdog: Option<Duration>,
        stop_deadline: Duration,
        is_change: bool,
        now: Instant,
    ) -> Self {
        let phase = if is_change { Phase::Changing } else { Phase::Starting };
        // Twice in the time, as systemd recommends.
        let watchdog = watchdog.map(|time| ((time / 2).max(SHORTEST_BEAT), now));
        let (unsent, unheard) = (Unsent::default(), LogThrottle::default());
        Self { notifier, stop_deadline, watchdog, phase, unsent, again: None, unheard }
    }

    pub(crate) fn told(&mut self, report: &Report, pool: &Pool, now: Instant) {
        self.tell(report, pool);
        self.send(now);
    }

    fn tell(&mut self, report: &Report, pool: &Pool) {
        match (report, self.phase) {
            (Report::AllReady, Phase::Starting) => {
                self.say(MessageKind::MainPid, format!("MAINPID={}", std::process::id()));
                self.serves(MessageKind::Started, pool, "");
            }
            (Report::Reloading { .. } | Report::Upgrading, Phase::Serving) => {
                self.phase = Phase::Changing;
                self.reloading();
            }
            (Report::Reloaded { .. } | Report::Upgraded { .. }, _) => self.changed(pool, ""),
            (
                Report::RolledBack { reason, .. }
                | Report::ReloadRefused { reason }
                | Report::UpgradeRefused { reason }
                | Report::UpgradeRolledBack { reason, .. },
                _,
            ) => self.changed(pool, &format!("; as before, since {reason}")),
            (
                Report::Stopping { .. } | Report::Failing { .. } | Report::Finished { .. },
                Phase::Starting | Phase::Serving | Phase::Changing,
            ) => self.stops(pool),
            // While the service runs, systemd would take this as the limit of its run time.
            (
                Report::Extended { time, .. },
                Phase::Starting | Phase::Changing | Phase::Stopping,
            ) => self.extend(*time),
            (Report::Ready { .. } | Report::Died { .. }, Phase::Serving) => {
                self.status(pool, "");
            }
            // These are known already, belong to another phase, or are of no interest.
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
                | Report::LeftBehind { .. }
                | Report::WorkerStopping { .. }
                | Report::Killed { .. }
                | Report::OverLimit { .. }
                | Report::TooFast { .. }
                | Report::Resized { .. },
                _,
            ) => {}
        }
    }

    /// Reports that the service stops, and the time that its processes have, some of which were granted
    /// more.
    fn stops(&mut self, pool: &Pool) {
        self.phase = Phase::Stopping;
        self.say(MessageKind::Stopping, "STOPPING=1".to_owned());
        let granted = pool.stops_by().map(|at| at - pool.time());
        self.extend(granted.unwrap_or_default().max(self.stop_deadline));
    }

    /// Reports that only the main task remains. Systemd may not know of the stop yet.
    pub(crate) fn finishes(&mut self, pool: &Pool, now: Instant) {
        if self.phase != Phase::Stopping {
            self.stops(pool);
            self.send(now);
        }
    }

    /// Reports the end of a change, even if it was refused before anything changed: systemd waits for a
    /// beginning and an end of each change.
    fn changed(&mut self, pool: &Pool, why: &str) {
        match self.phase {
            Phase::Serving => self.reloading(),
            Phase::Changing => {}
            Phase::Starting | Phase::Stopping => return,
        }
        self.serves(MessageKind::Ready, pool, why);
    }

    fn serves(&mut self, kind: MessageKind, pool: &Pool, why: &str) {
        self.phase = Phase::Serving;
        // The status comes first, so that it is there when a waiting systemctl returns.
        self.status(pool, why);
        self.say(kind, "READY=1".to_owned());
    }

    fn status(&mut self, pool: &Pool, why: &str) {
        let line = status_line(&state(pool, why));
        self.say(MessageKind::Status, format!("STATUS={line}"));
    }

    fn reloading(&mut self) {
        match reloading() {
            Ok(message) => self.say(MessageKind::Reloading, message),
            Err(error) => log_warning!(%error, "systemd was not told"),
        }
    }

    fn extend(&mut self, time: Duration) {
        let time = time.saturating_add(MARGIN).as_micros();
        self.say(MessageKind::Extend, format!("EXTEND_TIMEOUT_USEC={time}"));
    }

    fn say(&mut self, kind: MessageKind, message: String) {
        self.unsent.push(kind, message);
    }

    /// Sends as many messages as there is room for.
    fn send(&mut self, now: Instant) {
        let outcome = self.unsent.send(&self.notifier);
        self.again = outcome.as_ref().err().map(|error| match error.kind() {
            io::ErrorKind::WouldBlock => now + ROOM_TIME,
            _ => now + ERROR_TIME,
        });
        if let Err(error) = outcome
            && let Some(unsaid) = self.unheard.now(now)
        {
            let what = match self.unsent.has(MessageKind::Watchdog) {
                true => "systemd got no sign of life",
                false => "systemd was not told",
            };
            log_warning!(%error, unsaid, "{what}; it hears the latest when it listens");
        }
    }

    /// Returns the time when [`beat`](SystemdNotifier::beat) must be called next.
    pub(crate) fn beats_at(&self) -> Option<Instant> {
        self.watchdog.map(|(_, at)| at).into_iter().chain(self.again).min()
    }

    /// Feeds the watchdog, if it is time and the service is well, and sends the unsent messages.
    pub(crate) fn beat(&mut self, pool: &Pool, now: Instant) {
        let mut is_due = self.again.is_some_and(|at| at <= now);
        if let Some((interval, at)) = self.watchdog.as_mut().filter(|(_, at)| *at <= now) {
            *at = now + *interval;
            is_due = true;
            let is_under_way = matches!(self.phase, Phase::Starting | Phase::Stopping);
            if is_under_way || not_live(pool).is_none() {
                self.say(MessageKind::Watchdog, "WATCHDOG=1".to_owned());
            }
        }
        if is_due {
            self.send(now);
        }
    }
}

fn state(pool: &Pool, why: &str) -> String {
    let workers = pool.status(pool.time());
    let ready = workers.iter().filter(|worker| worker.state == State::Ready).count();
    let (all, generation) = (workers.len(), pool.generation());
    format!("{ready} of {all} workers ready, generation {generation}{why}")
}
