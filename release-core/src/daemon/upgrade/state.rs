//! What one version of a master leaves to the next.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::daemon::control::FrozenControl;
use crate::daemon::hello::{PROTOCOL, Types};
use crate::daemon::listeners::KeptListener;
use crate::daemon::{KeptOutput, Particulars};
use crate::ipc::Descriptor;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::parcel::{pack, unpack};
use crate::{Error, ErrorKind};

/// Changes whenever what follows it does.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"release\x1b";

/// What the next version can understand without being the master yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The master.
    pub(crate) pid: u32,
    /// What its workers speak.
    pub(super) protocol: u16,
    pub(crate) executable: OsString,
    pub(crate) is_background: bool,
    pub(crate) lock: Option<OsString>,
    /// Group, name and address of each.
    pub(crate) listeners: Vec<[String; 3]>,
    pub(crate) controls: Vec<OsString>,
    pub(crate) pool: Vec<u8>,
    pub(crate) groups: Vec<GroupTypes>,
    /// What the program itself has left, and the name of its type.
    pub(crate) left: Option<(String, Vec<u8>)>,
}

/// What the workers of a group and their master tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupTypes {
    pub(crate) name: String,
    pub(crate) is_plain: bool,
    pub(crate) types: Types,
}

/// Everything that stays open.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) lock: Option<(OsString, Descriptor)>,
    pub(crate) listeners: Vec<KeptListener>,
    pub(crate) controls: Vec<FrozenControl>,
    pub(crate) workers: Vec<KeptWorker>,
    /// What the processes of the generation that serves have for themselves, and their executable.
    pub(crate) particulars: Vec<(u32, Particulars)>,
    pub(crate) image: Option<(u32, Descriptor)>,
    /// Signals that nobody has dealt with, and where the numbers of later ones are.
    pub(crate) signals: Vec<i32>,
    pub(crate) late_signals: Option<Descriptor>,
}

/// A worker's process that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptWorker {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) generation: u32,
    /// How many units of work it has finished.
    pub(crate) finished: u64,
    /// None when the connection has ended.
    pub(crate) link: Option<Frozen>,
    pub(crate) output: Option<KeptOutput>,
    /// Whether it was told to end.
    pub(crate) is_told: bool,
}

impl Summary {
    /// The bytes of a state, for a process that will not be the master.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        postcard::to_extend(self, bytes).map_err(|error| cannot_write().caused_by(error))
    }

    /// The summary, and what comes after it.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let strange = || Error::new(ErrorKind::Change, "this is not what a master leaves");
        let bytes = bytes.strip_prefix(&MAGIC).ok_or_else(strange)?;
        let (version, bytes) = bytes.split_first_chunk().ok_or_else(strange)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            let message = format!(
                "the running master hands over in format {version}, the new version takes \
                 format {VERSION}: stop the service and start it again"
            );
            return Err(Error::new(ErrorKind::Change, message));
        }
        let (summary, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|error| strange().caused_by(error))?;
        if summary.protocol != PROTOCOL {
            let theirs = summary.protocol;
            let message = format!(
                "the running workers speak protocol {theirs}, the new version {PROTOCOL}: \
                 stop the service and start it again"
            );
            return Err(Error::new(ErrorKind::Change, message));
        }
        Ok((summary, rest))
    }
}

impl Kept {
    /// As bytes, with the descriptors that the bytes mean by their numbers.
    pub(super) fn encode(&self) -> Result<(Vec<u8>, Vec<std::os::fd::OwnedFd>), Error> {
        use std::os::fd::AsRawFd;

        let (parcel, descriptors) = pack(self).map_err(|error| cannot_write().caused_by(error))?;
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let bytes = postcard::to_stdvec(&(numbers, parcel))
            .map_err(|error| cannot_write().caused_by(error))?;
        Ok((bytes, descriptors))
    }

    /// Takes the descriptors, which this process was started with.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let strange = || Error::new(ErrorKind::Change, "this is not what a master leaves");
        let (numbers, parcel): (Vec<i32>, Vec<u8>) =
            postcard::from_bytes(bytes).map_err(|error| strange().caused_by(error))?;
        let descriptors = numbers.into_iter().map(|number| {
            crate::sys::fds::take_inherited(number).map_err(|error| {
                Error::system(format!("cannot take descriptor {number} over"), error)
            })
        });
        let descriptors = descriptors.collect::<Result<_, _>>()?;
        unpack(&parcel, descriptors).map_err(|error| strange().caused_by(error))
    }
}

#[cold]
fn cannot_write() -> Error {
    Error::new(ErrorKind::Change, "the state of the master cannot be written down")
}
