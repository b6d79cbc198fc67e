//! The processes of workers, and their setup.

use std::collections::BTreeMap;
use std::ffi::OsString;

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
