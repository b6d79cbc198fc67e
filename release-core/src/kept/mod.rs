//! The format of the state that one version of a master leaves to the next: JSON with named fields.
//!
//! Everything that an upgrade carries is defined here, and only here. The other modules convert their
//! own types, which may change freely. `D` is a descriptor, which is a number in the JSON; `M` and `T`
//! describe messages as the greeting of a worker does.
//!
//! The master that writes a state and the master that reads it come from different versions of the
//! library. Therefore:
//!
//! * To add a field, give it a default for states without it: an `Option`, or `#[serde(default)]`. Put
//!   it into the last golden file in `master/upgrade/state/tests`, or into a new one if the last belongs
//!   to a released version. A reader that does not know the field ignores it.
//! * A field or variant that a version has written keeps its name and its meaning. You may stop reading
//!   it, but older versions may still require it.
//! * A new variant, like a field that must not be ignored, is an incompatible change, as older readers
//!   refuse the state in their trial. If a newer reader could misunderstand an older state, increase
//!   [`VERSION`]: both directions are then refused in the trial, in words.

mod child;
mod files;
mod link;
mod metrics;
mod pool;
mod sockets;
mod worker;

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

pub(crate) use child::{Child, Ending, Exit};
pub(crate) use files::{Account, Content, Files, Unwritten};
pub(crate) use link::{Heartbeat, InwardRing, Limits, Link, Mode, OutwardRing, Ring, Rings, Way};
pub(crate) use metrics::{Death, Journal, Metric, Running};
pub(crate) use pool::{Group, Hung, KillReason, Pool, PoolWorker, Process, ProcessLimits, Stage};
pub(crate) use sockets::{Connection, Control, FileIdentity, Listener};
pub(crate) use worker::{
    GroupTypes, Heard, Options, Output, Pipe, Readiness, ReadinessSignal, Resource, Setup,
    SocketFile, Worker,
};

/// Changes when an older reader would do something wrong with the new state, or a newer one with an
/// older state. Fields that may be missing or ignored do not change it.
pub(crate) const VERSION: u32 = 1;

/// The complete state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State<D, M, T> {
    pub(crate) version: u32,
    pub(crate) summary: Summary<M, T>,
    pub(crate) kept: Kept<D, M>,
}

/// The part of the state that the next version can read before it is the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary<M, T> {
    /// Process id of the master.
    pub(crate) pid: u32,
    /// Protocol of its workers.
    pub(crate) protocol: u16,
    pub(crate) executable: OsString,
    pub(crate) is_background: bool,
    /// The soft limit of descriptors for workers, if the master has raised its own.
    #[serde(default)]
    pub(crate) open_files: Option<u64>,
    pub(crate) lock: Option<OsString>,
    /// Group, name and address of each listener.
    pub(crate) listeners: Vec<[String; 3]>,
    pub(crate) controls: Vec<OsString>,
    pub(crate) pool: Pool,
    pub(crate) groups: Vec<GroupTypes<T>>,
    /// Format of the way back to this version.
    pub(crate) way_back: String,
    /// The program's own state, and its type.
    pub(crate) left: Option<(M, Vec<u8>)>,
    /// Files read to start: by this version, for the way back, and by the next one in its trial.
    #[serde(default)]
    pub(crate) files: Files,
    #[serde(default)]
    pub(crate) tried_files: Files,
}

/// All descriptors that stay open, and the state that belongs to them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "D: Deserialize<'de>, M: Deserialize<'de>"))]
pub(crate) struct Kept<D, M> {
    #[serde(default)]
    pub(crate) lock: Option<(OsString, D)>,
    #[serde(default)]
    pub(crate) listeners: Vec<Listener<D>>,
    #[serde(default)]
    pub(crate) controls: Vec<Control<D>>,
    #[serde(default)]
    pub(crate) workers: Vec<Worker<D>>,
    /// Children beside the workers.
    #[serde(default)]
    pub(crate) children: Vec<Child<D>>,
    /// Setup of the workers of the generation that serves, by their id.
    #[serde(default)]
    pub(crate) particulars: Vec<(u32, Setup<M>)>,
    /// The generation that serves, and its executable.
    #[serde(default)]
    pub(crate) image: Option<(u32, D)>,
    /// Signals that are still to be handled, and the descriptor with the numbers of later ones.
    #[serde(default)]
    pub(crate) signals: Vec<i32>,
    #[serde(default)]
    pub(crate) late_signals: Option<D>,
    /// Unwritten lines for standard output and error.
    #[serde(default)]
    pub(crate) streams: [Unwritten; 2],
    /// The metrics of processes that have ended, and of this one.
    #[serde(default)]
    pub(crate) metrics: Vec<Metric>,
    #[serde(default)]
    pub(crate) journal: Journal,
}

impl<D, M> Default for Kept<D, M> {
    fn default() -> Self {
        Self {
            lock: None,
            listeners: Vec::new(),
            controls: Vec::new(),
            workers: Vec::new(),
            children: Vec::new(),
            particulars: Vec::new(),
            image: None,
            signals: Vec::new(),
            late_signals: None,
            streams: Default::default(),
            metrics: Vec::new(),
            journal: Journal::default(),
        }
    }
}
