//! The metrics of processes that have ended, and the counters of the pool.

use serde::{Deserialize, Serialize};

/// A counter or a histogram of a group, or of the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    #[serde(default)]
    pub(crate) group: Option<String>,
    pub(crate) is_histogram: bool,
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) labels: Vec<(String, String)>,
    /// Bits of the numbers: JSON does not keep them.
    pub(crate) bounds: Vec<u64>,
    pub(crate) values: Vec<u64>,
}

/// What happened in the pool: its counts, and the deaths of workers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Journal {
    /// A name, a group, a cause, and how often.
    pub(crate) counts: Vec<(String, String, String, u64)>,
    pub(crate) deaths: Vec<Death>,
    pub(crate) running: Vec<Running>,
}

/// The death of a worker's process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Death {
    pub(crate) worker: u32,
    pub(crate) group: String,
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    pub(crate) exit: String,
    pub(crate) killed: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) lived: Option<u64>,
    pub(crate) is_restarted: bool,
    #[serde(default)]
    pub(crate) killed_by: Option<String>,
    #[serde(default)]
    pub(crate) last_lines: Vec<String>,
}

/// A process whose death is reported later.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) worker: u32,
    pub(crate) pid: i32,
    pub(crate) group: String,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
    pub(crate) killed: Option<String>,
}
