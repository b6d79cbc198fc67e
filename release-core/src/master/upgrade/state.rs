//! State that one version of a master leaves to the next.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ipc::Descriptor;
use crate::ipc::hello::{Message, PROTOCOL};
use crate::ipc::link::frozen::Frozen;
use crate::ipc::state_blob::{pack, unpack};
use crate::master::control::FrozenControl;
use crate::master::group::{GroupTypes, WorkerSetup};
use crate::process::listeners::KeptListener;
use crate::process::output::KeptOutput;
use crate::start_files::Files;
use crate::streams::Unwritten;
use crate::supervise::Snapshot;
use crate::sys::image::way_back::{self, FORMAT};
use crate::{Error, ErrorKind};

/// Changes when an older reader would do something wrong with the new state. Fields that may be missing
/// or ignored do not change it.
const VERSION: u32 = 1;

/// The part of the state that the next version can read before it is the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Process id of the master.
    pub(crate) pid: u32,
    /// Protocol of its workers.
    pub(super) protocol: u16,
    pub(crate) executable: OsString,
    pub(crate) is_background: bool,
    /// The soft limit of descriptors for workers, if the master has raised its own.
    #[serde(default)]
    pub(crate) open_files: Option<u64>,
    pub(crate) lock: Option<OsString>,
    /// Group, name and address of each listener.
    pub(crate) listeners: Vec<[String; 3]>,
    pub(crate) controls: Vec<OsString>,
    pub(crate) pool: Snapshot,
    pub(crate) groups: Vec<GroupTypes>,
    /// Format of the way back to this version.
    pub(super) way_back: String,
    /// The program's own state, and its type.
    pub(crate) left: Option<(Message, Vec<u8>)>,
    /// Files read to start: by this version, for the way back, and by the next one in its trial.
    #[serde(default)]
    pub(super) files: Files,
    #[serde(default)]
    pub(super) tried_files: Files,
}

/// All descriptors that stay open, and the state that belongs to them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub(crate) lock: Option<(OsString, Descriptor)>,
    pub(crate) listeners: Vec<KeptListener>,
    pub(crate) controls: Vec<FrozenControl>,
    pub(crate) workers: Vec<KeptWorker>,
    /// Setup of the workers of the generation that serves, by their id, and their executable.
    pub(crate) particulars: Vec<(u32, WorkerSetup)>,
    pub(crate) image: Option<(u32, Descriptor)>,
    /// Signals that are still to be handled, and the descriptor with the numbers of later ones.
    pub(crate) signals: Vec<i32>,
    pub(crate) late_signals: Option<Descriptor>,
    /// Unwritten lines for standard output and error.
    pub(crate) streams: [Unwritten; 2],
}

/// A running process of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptWorker {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    /// Number of requests that it has finished.
    pub(crate) finished: u64,
    /// `None` after the end of the connection.
    pub(crate) link: Option<Frozen>,
    pub(crate) output: Option<KeptOutput>,
    /// Whether it was told to stop.
    pub(crate) is_told: bool,
}

/// The complete state, as JSON with named fields. Unknown fields are ignored, and missing fields have a
/// default if their type allows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub(super) summary: Summary,
    pub(super) kept: Kept,
}

/// Version of the format, read before anything else.
#[derive(Deserialize)]
struct Versions {
    version: u32,
    summary: Protocols,
}

#[derive(Deserialize)]
struct Protocols {
    protocol: u16,
}

/// The envelope of the state: its descriptors, in the order of their places in it.
#[derive(Deserialize)]
struct Envelope<S> {
    descriptors: Vec<i32>,
    state: S,
}

/// Encodes a state. Returns the descriptors, to which the bytes refer by number.
pub(super) fn encode(summary: Summary, kept: Kept) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
    let state = State { version: VERSION, summary, kept };
    let (state, descriptors) = pack(&state).map_err(|error| cannot_write().caused_by(error))?;
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut bytes = format!("{{\"descriptors\":{numbers:?},\"state\":").into_bytes();
    bytes.extend(state);
    bytes.push(b'}');
    Ok((bytes, descriptors))
}

/// Decodes a state and takes over its descriptors.
pub(super) fn decode(bytes: &[u8]) -> Result<(Summary, Kept), Error> {
    decode_with(bytes, |number| {
        way_back::take(number)
            .map_err(|error| Error::system(format!("cannot take descriptor {number} over"), error))
    })
}

/// Checks in a trial, where nothing of the master is open, that all of a state can be read.
pub(super) fn understand(bytes: &[u8]) -> Result<Summary, Error> {
    let failed = |error| Error::system("cannot open /dev/null", error);
    let nothing = std::fs::File::open("/dev/null").map_err(failed)?;
    let stand_in = |_| nothing.try_clone().map(OwnedFd::from).map_err(failed);
    let (summary, kept) = decode_with(bytes, stand_in)?;
    if summary.way_back != FORMAT {
        let theirs = summary.way_back;
        let message = format!(
            "there would be no way back: this version takes it as `{FORMAT}`, not `{theirs}`"
        );
        return Err(Error::new(ErrorKind::Change, message));
    }
    kept.check()?;
    Ok(summary)
}

fn decode_with(
    bytes: &[u8],
    descriptor: impl Fn(i32) -> Result<OwnedFd, Error>,
) -> Result<(Summary, Kept), Error> {
    let Envelope { descriptors, state } = parse(bytes)?;
    check_versions(&state)?;
    let descriptors = descriptors.into_iter().map(descriptor).collect::<Result<_, _>>()?;
    let read: Envelope<State> =
        unpack(bytes, descriptors).map_err(|error| strange().caused_by(error))?;
    Ok((read.state.summary, read.state.kept))
}

impl Kept {
    /// Checks everything that can be wrong without its descriptors.
    fn check(self) -> Result<(), Error> {
        for (_, its) in self.particulars {
            its.checked()?;
        }
        let controls = self.controls.into_iter().flat_map(FrozenControl::links);
        let links = self.workers.into_iter().filter_map(|worker| worker.link);
        links.chain(controls).try_for_each(Frozen::check)
    }
}

fn strange() -> Error {
    Error::new(ErrorKind::Change, "this version cannot read what the running master leaves")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| strange().caused_by(error))
}

fn check_versions(versions: &Versions) -> Result<(), Error> {
    let (version, theirs) = (versions.version, versions.summary.protocol);
    let refuse = |what: String| {
        Err(Error::new(ErrorKind::Change, format!("{what}: stop the service and start it again")))
    };
    if version != VERSION {
        return refuse(format!(
            "the running master hands over in format {version}, the new version takes format \
             {VERSION}"
        ));
    }
    if theirs != PROTOCOL {
        return refuse(format!(
            "the running workers speak protocol {theirs}, the new version {PROTOCOL}"
        ));
    }
    Ok(())
}

#[cold]
fn cannot_write() -> Error {
    Error::new(ErrorKind::Change, "the state of the master cannot be written down")
}

#[cfg(test)]
mod tests;
