//! Writes the state that one version of a master leaves to the next, and reads it.

use std::os::fd::{AsRawFd, OwnedFd};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::ipc::Descriptor;
use crate::ipc::hello::{MessageType, PROTOCOL, Types};
use crate::ipc::link::frozen::Frozen;
use crate::ipc::state_blob::{pack, unpack};
use crate::kept::{self, VERSION};
use crate::master::control::FrozenControl;
use crate::master::group::WorkerSetup;
use crate::sys::image::way_back::{self, FORMAT};
use crate::{Error, ErrorKind};

pub(crate) type Summary = kept::Summary<MessageType, Types>;
pub(crate) type Kept = kept::Kept<Descriptor, MessageType>;
pub(crate) type KeptWorker = kept::Worker<Descriptor>;
type UpgradeState = kept::State<Descriptor, MessageType, Types>;

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
    let state = UpgradeState { version: VERSION, summary, kept };
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
    let read: Envelope<UpgradeState> =
        unpack(bytes, descriptors).map_err(|error| strange().caused_by(error))?;
    Ok((read.state.summary, read.state.kept))
}

impl Kept {
    /// Checks everything that can be wrong without its descriptors.
    fn check(self) -> Result<(), Error> {
        for (_, its) in self.particulars {
            WorkerSetup::adopt(its)?;
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
