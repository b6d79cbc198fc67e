//! `StatusReport`: the status of a service as JSON, for its writer and its readers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::MasterHandle;

/// How long a report waits for the supervisor.
const PATIENCE: Duration = Duration::from_secs(1);

/// A master and its workers, as the answer to the command `status` of a control socket: JSON with these
/// names.
///
/// You can read the report of a service of any version: a missing field is 0, empty or absent, and an
/// unknown field is ignored.
///
/// # Examples
///
/// ```
/// use release_core::StatusReport;
///
/// let report = r#"{"master":7,"generation":1,"workers":[{"id":0,"pid":8,"state":"ready"}]}"#;
/// let report: StatusReport = serde_json::from_str(report)?;
/// assert_eq!((report.ready(), report.workers[0].pid), (1, Some(8)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StatusReport {
    /// Process id of the master.
    pub master: u32,
    /// Generation of workers that serves.
    pub generation: u32,
    /// The workers, ordered by id.
    pub workers: Vec<WorkerReport>,
    /// Number of workers that each group may grow to, if it follows its load.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub most: BTreeMap<String, u32>,
}

/// One worker of a [`StatusReport`].
///
/// # Examples
///
/// ```
/// use release_core::WorkerReport;
///
/// let report: WorkerReport = serde_json::from_str(r#"{"id":3,"pid":null,"state":"waiting"}"#)?;
/// assert_eq!((report.id, report.pid), (3, None));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Worker id, unique in the master and stable across restarts.
    pub id: u32,
    /// Name of its group, in a master with several groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Process id; `null` without a process.
    pub pid: Option<i32>,
    /// State, such as `starting`, `ready`, `draining`.
    pub state: String,
    /// Generation of its process.
    pub generation: u32,
    /// Number of restarts.
    pub restarts: u32,
    /// Run time of its process, in seconds.
    pub uptime_s: f64,
    /// Number of older processes of this worker that are still draining.
    pub draining: usize,
    /// Units of work in flight, such as requests, if its process has counted any: see
    /// [`Workers::metrics`](crate::Workers::metrics).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Private memory of its process, in KiB, if the service reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kb: Option<u64>,
    /// End of its previous process, in words, if the service reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Status text of the process: see [`WorkerState::status_text`](crate::WorkerState::status_text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_text: Option<String>,
    /// Restrictions of the process: see [`WorkerState::sandbox`](crate::WorkerState::sandbox).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

impl StatusReport {
    /// Returns the report of the running master, without memory, exits and work in flight of its workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{MasterHandle, StatusReport};
    ///
    /// fn show(master: &MasterHandle) -> String {
    ///     StatusReport::of(master).to_string()
    /// }
    /// ```
    #[must_use]
    pub fn of(master: &MasterHandle) -> Self {
        let states = master.status();
        let has_one_group = states.windows(2).all(|two| two[0].group == two[1].group);
        let workers = states.into_iter().map(|worker| WorkerReport {
            id: worker.id,
            group: (!has_one_group).then(|| worker.group.to_string()),
            pid: worker.pid,
            state: worker.state.to_string(),
            generation: worker.generation,
            restarts: worker.restarts,
            uptime_s: (worker.uptime.as_secs_f64() * 10.0).round() / 10.0,
            draining: worker.draining,
            in_flight: None,
            memory_kb: None,
            last_exit: None,
            status_text: worker.status_text,
            sandbox: worker.sandbox,
        });
        let workers = workers.collect();
        let (master, generation) = (std::process::id(), master.generation());
        Self { master, generation, workers, most: BTreeMap::new() }
    }

    /// Returns the same with all that the supervisor knows: work in flight, and maximum sizes. They are
    /// absent if it is busy for longer than a second.
    ///
    /// # Cancellation
    ///
    /// Can be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{MasterHandle, StatusReport};
    ///
    /// async fn busy(master: &MasterHandle) -> u64 {
    ///     let report = StatusReport::complete(master).await;
    ///     report.workers.iter().filter_map(|worker| worker.in_flight).sum()
    /// }
    /// ```
    pub async fn complete(master: &MasterHandle) -> Self {
        let figures = master.rt().timeout(PATIENCE, master.figures()).await;
        let mut report = Self::of(master);
        let Ok(Ok(figures)) = figures else { return report };
        let in_flight = figures.in_flight();
        for worker in &mut report.workers {
            worker.in_flight = worker.pid.and_then(|pid| in_flight.get(&pid).copied());
        }
        report.most = figures.most.iter().map(|(group, most)| (group.to_string(), *most)).collect();
        report
    }

    /// Returns the number of ready workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{StatusReport, WorkerReport};
    ///
    /// let mut worker = WorkerReport::default();
    /// worker.state = "ready".into();
    /// let mut report = StatusReport::default();
    /// report.workers.push(worker);
    /// assert_eq!(report.ready(), 1);
    /// ```
    #[must_use]
    pub fn ready(&self) -> usize {
        self.workers.iter().filter(|worker| worker.state == "ready").count()
    }
}

/// Formats the report as one line of JSON.
impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_does_not_say_is_absent() {
        let said =
            r#"{"master":7,"workers":[{"id":1,"pid":null,"state":"ready","more":[]}],"x":1}"#;
        let status: StatusReport = serde_json::from_str(said).unwrap();
        let worker = WorkerReport { id: 1, state: "ready".to_owned(), ..WorkerReport::default() };
        assert_eq!(
            status,
            StatusReport { master: 7, workers: vec![worker], ..StatusReport::default() }
        );
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let worker = WorkerReport {
            group: Some("web".to_owned()),
            pid: Some(3),
            in_flight: Some(4),
            memory_kb: Some(100),
            last_exit: Some("killed by SIGKILL".to_owned()),
            status_text: Some("serving".to_owned()),
            sandbox: Some("calls; capabilities: none".to_owned()),
            ..WorkerReport::default()
        };
        let most = BTreeMap::from([("web".to_owned(), 8)]);
        let status = StatusReport { master: 1, generation: 2, workers: vec![worker], most };
        let text = status.to_string();
        assert_eq!(serde_json::from_str::<StatusReport>(&text).unwrap(), status);
    }
}
