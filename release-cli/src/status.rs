//! The `status` of the control socket: one shape for the writer and the reader.

use serde::{Deserialize, Serialize};

/// A master and its workers.
///
/// Read from services of any version: a missing field is 0, empty or absent here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The process of the master.
    pub(crate) master: u32,
    /// The generation of workers that serves.
    pub(crate) generation: u32,
    /// In the order of their identities.
    pub(crate) workers: Vec<Worker>,
}

impl Status {
    /// How many workers are ready.
    pub(crate) fn ready(&self) -> usize {
        self.workers.iter().filter(|worker| worker.state == "ready").count()
    }
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Worker {
    /// Its identity, kept over restarts.
    pub(crate) id: u32,
    /// The name of its group, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Its process; `null` while it has none.
    pub(crate) pid: Option<i32>,
    /// Such as `starting`, `ready`, `draining`.
    pub(crate) state: String,
    /// The generation of its process.
    pub(crate) generation: u32,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How long its process has run, in seconds.
    pub(crate) uptime_s: f64,
    /// How many earlier processes of it still finish what they have in hand.
    pub(crate) draining: usize,
    /// The memory that its process has for itself, in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_kb: Option<u64>,
    /// How its process before ended, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_exit: Option<String>,
    /// How it is, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status_text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_does_not_say_is_absent() {
        let said =
            r#"{"master":7,"workers":[{"id":1,"pid":null,"state":"ready","more":[]}],"x":1}"#;
        let status: Status = serde_json::from_str(said).unwrap();
        let worker = Worker { id: 1, state: "ready".to_owned(), ..Worker::default() };
        assert_eq!(status, Status { master: 7, generation: 0, workers: vec![worker] });
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let worker = Worker {
            group: Some("web".to_owned()),
            pid: Some(3),
            memory_kb: Some(100),
            last_exit: Some("killed by SIGKILL".to_owned()),
            status_text: Some("serving".to_owned()),
            ..Worker::default()
        };
        let status = Status { master: 1, generation: 2, workers: vec![worker] };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
