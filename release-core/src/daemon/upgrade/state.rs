//! What one version of a master leaves to the next.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::daemon::control::FrozenControl;
use crate::daemon::hello::{PROTOCOL, Types};
use crate::daemon::listeners::KeptListener;
use crate::daemon::{KeptOutput, Particulars};
use crate::ipc::Descriptor;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::parcel::{pack, unpack};
use crate::sys::fds::{duplicate_from, take_inherited};
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
    /// The soft limit of descriptors that workers get, where the master has raised its own.
    pub(crate) open_files: Option<u64>,
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
    /// The executable of the version that leaves all this.
    pub(super) back: Option<Descriptor>,
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
    pub(super) fn encode(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let (parcel, descriptors) = pack(self).map_err(|error| cannot_write().caused_by(error))?;
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let bytes = postcard::to_stdvec(&(numbers, parcel))
            .map_err(|error| cannot_write().caused_by(error))?;
        Ok((bytes, descriptors))
    }

    /// Takes the descriptors, which this process was started with; and duplicates of them as they
    /// were left.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, Vec<OwnedFd>), Error> {
        let strange = || Error::new(ErrorKind::Change, "this is not what a master leaves");
        let (numbers, parcel): (Vec<i32>, Vec<u8>) =
            postcard::from_bytes(bytes).map_err(|error| strange().caused_by(error))?;
        let left = numbers.into_iter().map(|number| {
            take_inherited(number).map_err(|error| {
                Error::system(format!("cannot take descriptor {number} over"), error)
            })
        });
        let left = left.collect::<Result<Vec<_>, _>>()?;
        let used = left.iter().map(|one| {
            duplicate_from(one.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate what was left", error))
        });
        let used = used.collect::<Result<_, _>>()?;
        let kept = unpack(&parcel, used).map_err(|error| strange().caused_by(error))?;
        Ok((kept, left))
    }
}

#[cold]
fn cannot_write() -> Error {
    Error::new(ErrorKind::Change, "the state of the master cannot be written down")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            pid: 1,
            protocol: PROTOCOL,
            executable: "/usr/bin/service".into(),
            is_background: false,
            open_files: Some(1024),
            lock: None,
            listeners: vec![["http".to_owned(), "web".to_owned(), "[::]:80".to_owned()]],
            controls: vec!["/run/control".into()],
            pool: vec![1, 2, 3],
            groups: Vec::new(),
            left: Some(("u64".to_owned(), vec![7])),
        }
    }

    #[test]
    fn what_comes_after_the_summary_is_left_alone() {
        let mut bytes = summary().encode().unwrap();
        bytes.extend(b"parcel");
        let (read, rest) = Summary::decode(&bytes).unwrap();
        assert_eq!((format!("{read:?}"), rest), (format!("{:?}", summary()), &b"parcel"[..]));
    }

    #[test]
    fn another_format_or_protocol_is_refused_in_words_that_name_both() {
        let mut bytes = summary().encode().unwrap();
        bytes[MAGIC.len()] += 1;
        let reason = Summary::decode(&bytes).unwrap_err().report();
        assert!(
            reason.contains("hands over in format 2, the new version takes format 1"),
            "{reason}"
        );
        let other = Summary { protocol: PROTOCOL + 1, ..summary() };
        let reason = Summary::decode(&other.encode().unwrap()).unwrap_err().report();
        let (theirs, ours) = (PROTOCOL + 1, PROTOCOL);
        let expected = format!("running workers speak protocol {theirs}, the new version {ours}");
        assert!(reason.contains(&expected), "{reason}");
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_or_another_summary() {
        let bytes = summary().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Summary::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for at in MAGIC.len() + 4..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            drop(Summary::decode(&bytes));
        }
    }
}
