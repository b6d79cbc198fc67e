//! The events of the service, for its hooks and its followers.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::event_log::worker_of;
use super::journal::{DeathReport, since_1970};
use crate::supervise::{Outcome, Report, StopCause, WorkerId};
use crate::sys::beginning;

/// Maximum length of a reason, which a worker may have chosen.
const LONGEST_REASON: usize = 1000;

/// An event of the service: JSON with these names.
///
/// You can read events of a service of any version: a missing field is absent or empty, an unknown field
/// is ignored, and an unknown kind is [`EventKind::Other`].
///
/// # Examples
///
/// ```
/// use release_core::{EventKind, ServiceEvent};
///
/// let event = r#"{"at":1732950000.5,"event":"worker_died","worker":2,"pid":77,"exit":"exit status 3"}"#;
/// let event: ServiceEvent = serde_json::from_str(event)?;
/// assert_eq!((event.event, event.worker), (EventKind::WorkerDied, Some(2)));
/// assert!(event.to_string().contains(r#""event":"worker_died""#));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceEvent {
    /// Its number: one more than that of the event before, in one version of the program. The first number
    /// of the next version is larger.
    pub seq: u64,
    /// Time of the event, in seconds since 1970.
    pub at: f64,
    /// Kind of the event.
    pub event: EventKind,
    /// Worker id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Generation of the process, of the reload or of the upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The reason, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of workers of a group that was resized, or number of events that were dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Exit status of a process, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// See [`DeathReport::killed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<String>,
    /// See [`DeathReport::killed_by`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// See [`DeathReport::lived_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lived_s: Option<f64>,
    /// Whether another process is started in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted: Option<bool>,
    /// See [`DeathReport::last_lines`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// The kind of a [`ServiceEvent`], in JSON in the form `worker_died`.
///
/// # Examples
///
/// ```
/// use release_core::{EventKind, ServiceEvent};
///
/// fn is_bad(event: &ServiceEvent) -> bool {
///     use EventKind::{DyingTooFast, Failing, ReloadRolledBack, UpgradeRolledBack};
///     matches!(event.event, DyingTooFast | Failing | ReloadRolledBack | UpgradeRolledBack)
/// }
/// # assert!(!is_bad(&ServiceEvent::default()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The master starts.
    Starting,
    /// All workers have been ready: the start succeeded.
    Serving,
    /// A stop was requested; `reason` names the source.
    Stopping,
    /// No worker is left, and the master exits.
    Finished,
    /// A process of a worker was started.
    WorkerStarted,
    /// A worker is ready.
    WorkerReady,
    /// A process of a worker has ended, also if it was told to.
    WorkerDied,
    /// The master kills a process.
    WorkerKilled,
    /// No process could be started.
    WorkerNotStarted,
    /// A process cannot be ended.
    WorkerLeftBehind,
    /// A worker exceeds a limit, and is replaced.
    WorkerOverLimit,
    /// The workers of a group die too often.
    DyingTooFast,
    /// A reload begins.
    Reloading,
    /// A new generation serves.
    Reloaded,
    /// A new generation failed; the previous one continues.
    ReloadRolledBack,
    /// No new generation was started.
    ReloadRefused,
    /// An upgrade begins.
    Upgrading,
    /// A new version serves.
    Upgraded,
    /// The new version was not used.
    UpgradeRefused,
    /// The workers of the new version failed; the previous workers continue.
    UpgradeRolledBack,
    /// The number of workers of a group was changed.
    Resized,
    /// The master stops for a failure.
    Failing,
    /// The follower was too slow: `count` events were dropped.
    Dropped,
    /// An event of a later version.
    #[default]
    #[serde(other)]
    Other,
}

/// Formats the event as one line of JSON.
impl fmt::Display for ServiceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl ServiceEvent {
    /// Returns the event for a report about a worker of this group or about the pool. The report of a
    /// death comes with the history's.
    pub(super) fn of(report: &Report, group: &str, death: Option<DeathReport>) -> Option<Self> {
        let mut event = Self {
            at: since_1970(SystemTime::now()),
            worker: worker_of(report).map(|WorkerId(id)| id),
            group: worker_of(report).map(|_| group.to_owned()),
            ..Self::default()
        };
        if let Some(death) = death {
            event.tell_death(death);
        }
        event.event = event.tell(report)?;
        event.reason = event.reason.map(|reason| beginning(&reason, LONGEST_REASON).to_owned());
        Some(event)
    }

    fn tell_death(&mut self, death: DeathReport) {
        self.at = death.at;
        self.exit = Some(death.exit);
        self.killed = death.killed;
        self.killed_by = death.killed_by;
        self.lived_s = death.lived_s;
        self.restarted = Some(death.restarted);
        self.last_lines = death.last_lines;
    }

    /// Fills the fields of a report, and returns its kind.
    fn tell(&mut self, report: &Report) -> Option<EventKind> {
        use EventKind as Kind;
        let mut of = |pid: i32, its: u32, kind| {
            (self.pid, self.generation) = (Some(pid), Some(its));
            kind
        };
        Some(match report {
            Report::Starting => Kind::Starting,
            Report::AllReady => Kind::Serving,
            Report::Started { pid, generation, .. } => of(*pid, *generation, Kind::WorkerStarted),
            Report::Ready { pid, generation, .. } => of(*pid, *generation, Kind::WorkerReady),
            Report::Died { pid, generation, .. } => of(*pid, *generation, Kind::WorkerDied),
            Report::Killed { pid, generation, reason, .. } => {
                let kind = of(*pid, *generation, Kind::WorkerKilled);
                self.because(reason, kind)
            }
            Report::LeftBehind { pid, generation, reason, .. } => {
                let kind = of(*pid, *generation, Kind::WorkerLeftBehind);
                self.because(reason, kind)
            }
            Report::OverLimit { pid, generation, excess, .. } => {
                let kind = of(*pid, *generation, Kind::WorkerOverLimit);
                self.because(excess, kind)
            }
            Report::Stopping { cause } => self.because(cause_in_words(*cause), Kind::Stopping),
            Report::Finished { outcome: Outcome::Failed { reason } } => {
                self.because(reason, Kind::Finished)
            }
            Report::Finished { .. } => Kind::Finished,
            Report::SpawnFailed { reason, .. } => self.because(reason, Kind::WorkerNotStarted),
            Report::TooFast { group } => self.of_group(group, None, Kind::DyingTooFast),
            Report::Resized { group, size } => {
                self.of_group(group, Some((*size).into()), Kind::Resized)
            }
            Report::Failing { reason } => self.because(reason, Kind::Failing),
            Report::Extended { .. } | Report::WorkerStopping { .. } => return None,
            change => return self.tell_change(change),
        })
    }

    /// The same for the report of a reload or an upgrade.
    fn tell_change(&mut self, report: &Report) -> Option<EventKind> {
        use EventKind as Kind;
        let (generation, reason, kind) = match report {
            Report::Reloading { generation } => (Some(generation), None, Kind::Reloading),
            Report::Reloaded { generation } => (Some(generation), None, Kind::Reloaded),
            Report::RolledBack { generation, reason } => {
                (Some(generation), Some(reason), Kind::ReloadRolledBack)
            }
            Report::ReloadRefused { reason } => (None, Some(reason), Kind::ReloadRefused),
            Report::Upgrading => (None, None, Kind::Upgrading),
            Report::Upgraded { generation } => (Some(generation), None, Kind::Upgraded),
            Report::UpgradeRefused { reason } => (None, Some(reason), Kind::UpgradeRefused),
            Report::UpgradeRolledBack { generation, reason } => {
                (Some(generation), Some(reason), Kind::UpgradeRolledBack)
            }
            _ => return None,
        };
        (self.generation, self.reason) = (generation.copied(), reason.cloned());
        Some(kind)
    }

    fn because(&mut self, reason: impl fmt::Display, kind: EventKind) -> EventKind {
        self.reason = Some(reason.to_string());
        kind
    }

    fn of_group(&mut self, group: &str, count: Option<u64>, kind: EventKind) -> EventKind {
        (self.group, self.count) = (Some(group.to_owned()), count);
        kind
    }
}

fn cause_in_words(cause: StopCause) -> &'static str {
    match cause {
        StopCause::Terminate => "SIGTERM",
        StopCause::Interrupt => "SIGINT",
        StopCause::Quit => "SIGQUIT",
        StopCause::Signal => "a signal",
        StopCause::Terminal => "the terminal was closed",
        StopCause::Program => "a command",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::KillReason;
    use crate::sys::exit_status::ExitStatus;

    #[test]
    fn an_event_is_a_line_of_json() {
        let id = WorkerId(3);
        let exit = ExitStatus::Code(3);
        let died = Report::Died { id, pid: 7, generation: 1, exit, restart_in: None };
        let death = DeathReport {
            at: 5.5,
            exit: exit.to_string(),
            last_lines: vec!["a\"\n\u{1b}".to_owned()],
            ..DeathReport::default()
        };
        let event = ServiceEvent::of(&died, "web", Some(death)).unwrap();
        let text = event.to_string();
        assert_eq!(
            text,
            r#"{"seq":0,"at":5.5,"event":"worker_died","worker":3,"group":"web","pid":7,"generation":1,"exit":"exit status 3","restarted":false,"last_lines":["a\"\n\u001b"]}"#
        );
        assert_eq!(serde_json::from_str::<ServiceEvent>(&text).unwrap(), event);
        let later: ServiceEvent = serde_json::from_str(r#"{"event":"of_tomorrow","x":1}"#).unwrap();
        assert_eq!(later.event, EventKind::Other);
        let reason = KillReason::Violation("x".repeat(100_000));
        let killed = Report::Killed { id, pid: 7, generation: 1, reason };
        assert!(ServiceEvent::of(&killed, "web", None).unwrap().to_string().len() < 2000);
    }
}
