//! The processes of workers, and their setup.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ending, Link};

/// A running process of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Worker<D> {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    /// Number of requests that it has finished.
    pub(crate) finished: u64,
    /// `None` after the end of the connection.
    pub(crate) link: Option<Link<D>>,
    pub(crate) output: Option<Output<D>>,
    /// Whether it was told to stop.
    pub(crate) is_told: bool,
    /// The memory of its metrics.
    pub(crate) metrics: Option<D>,
    /// The restrictions by its sandbox, for the status.
    #[serde(default)]
    pub(crate) sandbox: Option<String>,
    pub(crate) ending: Option<Ending<D>>,
    /// The master's side of the readiness protocol of a command, while it listens.
    pub(crate) readiness: Option<Readiness<D>>,
}

/// The master's side of a readiness protocol.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Readiness<D> {
    /// The user that may give the signal.
    pub(crate) uid: u32,
    pub(crate) signal: ReadinessSignal<D>,
}

/// The source of the signal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ReadinessSignal<D> {
    NotifySocket {
        socket: D,
        /// `None` if the socket is an abstract one.
        file: Option<SocketFile<D>>,
        watchdog: Option<Duration>,
        heard: Heard,
    },
    Acknowledgement {
        listener: D,
        file: SocketFile<D>,
        passed: D,
    },
    Newline(D),
}

/// The file of a readiness socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SocketFile<D> {
    pub(crate) path: OsString,
    /// The directory, which is locked while it is in use.
    pub(crate) directory: D,
}

/// The messages at a `NOTIFY_SOCKET` so far.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) is_ready: bool,
    pub(crate) is_stopping: bool,
    /// Whether the process has said that it hangs, and nobody knows yet.
    pub(crate) is_hung: bool,
    /// The latest status that was reported, and a newer one that was not.
    pub(crate) told: String,
    pub(crate) status: Option<String>,
    /// Time from now that the process has asked for, if nobody knows yet.
    pub(crate) needs: Option<Duration>,
}

/// The pipes of standard output and error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Output<D>(pub(crate) [Pipe<D>; 2]);

/// A pipe as long as it is open, and the beginning of its next line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pipe<D>(pub(crate) Option<D>, pub(crate) Vec<u8>);

/// Context and options of a worker, shared by all its processes of a generation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup<M> {
    pub(crate) context: Vec<u8>,
    pub(crate) context_type: M,
    #[serde(rename = "given")]
    pub(crate) options: Options,
}

/// The options of one worker.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    pub(crate) arguments: Vec<OsString>,
    /// Pairs, as JSON requires text as keys, and names of variables need not be text.
    pub(crate) variables: Vec<(OsString, OsString)>,
    pub(crate) processors: Option<Vec<u32>>,
    pub(crate) nice: Option<i32>,
    /// Soft and hard limits.
    pub(crate) limits: BTreeMap<Resource, (u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Resource {
    OpenFiles,
    CoreSize,
    AddressSpace,
    Processes,
    FileSize,
}

/// Message types of the workers of a group and their master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupTypes<T> {
    pub(crate) name: String,
    pub(crate) is_plain: bool,
    pub(crate) types: T,
}
