//! A pool without an operation in progress. Its points in time are durations since its start.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// Time of the pool, which continues from there.
    pub(crate) time: Duration,
    pub(crate) generation: u32,
    pub(crate) latest: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) workers: Vec<PoolWorker>,
    /// State of the generator of jitter.
    pub(crate) chance: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// Size in the configuration.
    pub(crate) configured: u32,
    /// Present size.
    pub(crate) size: u32,
    #[serde(default)]
    pub(crate) deaths: VecDeque<Duration>,
    #[serde(default)]
    pub(crate) died_too_fast: bool,
    /// Whether this version no longer has the group.
    #[serde(default)]
    pub(crate) is_gone: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PoolWorker {
    pub(crate) id: u32,
    /// Index of its group.
    pub(crate) group: usize,
    pub(crate) rank: u32,
    pub(crate) generation: u32,
    pub(crate) serving: Option<Process>,
    pub(crate) due: Option<Duration>,
    pub(crate) idle_since: Option<Duration>,
    pub(crate) replacement: Option<Process>,
    pub(crate) retry_at: Option<Duration>,
    pub(crate) draining: Vec<Process>,
    pub(crate) last_end: Option<Result<(), String>>,
    pub(crate) was_ready: bool,
    pub(crate) starts: u32,
    #[serde(default)]
    pub(crate) early_deaths: u32,
    #[serde(default)]
    pub(crate) failed_starts: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) generation: u32,
    pub(crate) stage: Stage,
    pub(crate) is_proven: bool,
    #[serde(rename = "is_stale")]
    pub(crate) needs_replacement: bool,
    #[serde(rename = "worn_since")]
    pub(crate) over_limit_since: Option<Duration>,
    pub(crate) status_text: Option<String>,
    #[serde(default)]
    pub(crate) limits: ProcessLimits,
    pub(crate) since: Duration,
    pub(crate) ready_at: Option<Duration>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Stage {
    Spawning,
    Starting { pid: i32, until: Duration },
    Trial { pid: i32, until: Duration },
    Ready { pid: i32 },
    Leaving { pid: i32, until: Duration },
    Stopping { pid: i32, kill_at: Duration },
    Killed { pid: i32, reason: KillReason },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum KillReason {
    NotReady(Duration),
    Violation(String),
    Hung(Hung),
    StopDeadline,
    StopNow,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Hung {
    Silent(Duration),
    Stuck(Duration),
    Admitted,
    Job(Duration),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ProcessLimits {
    pub(crate) age: Option<Duration>,
    pub(crate) requests: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) expires: Option<Duration>,
}
