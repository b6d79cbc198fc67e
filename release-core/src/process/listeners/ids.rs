//! The secret of a QUIC listener, and the files by which its processes know it, their own slot, and the
//! slots of others.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

use crate::Error;
use crate::net::{IdSecret, LIVING, LIVING_AT};
use crate::sys::process::random;

#[derive(Debug)]
pub(super) struct SlotIds {
    pub(super) secret: IdSecret,
    /// The files of the slots that have ever had a process: one to write, and one to pass on.
    files: BTreeMap<usize, (File, File)>,
    living: [u8; LIVING],
}

impl SlotIds {
    pub(super) fn new() -> Result<Self, Error> {
        let mut bytes = [0; IdSecret::LENGTH];
        random(&mut bytes).map_err(|error| Error::system("getrandom", error))?;
        Ok(Self::with(IdSecret::of(&bytes)))
    }

    pub(super) fn with(secret: IdSecret) -> Self {
        Self { secret, files: BTreeMap::new(), living: [0; LIVING] }
    }

    /// Makes the file of a slot, if it has none.
    pub(super) fn prepare(&mut self, slot: usize) -> Result<(), Error> {
        if self.files.contains_key(&slot) {
            return Ok(());
        }
        let made = make(slot, &self.secret, &self.living);
        let made = made.map_err(|error| Error::system("cannot make the ids of a slot", error))?;
        self.files.insert(slot, made);
        Ok(())
    }

    /// Returns the file of a slot, for its process.
    pub(super) fn file(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.files.get(&slot).map(|(_, given)| given.as_fd())
    }

    /// Tells all processes which slots have one.
    pub(super) fn set_living(&mut self, slots: &[usize]) -> io::Result<()> {
        let mut living = [0; LIVING];
        for slot in slots {
            living.get_mut(slot / 8).into_iter().for_each(|byte| *byte |= 1 << (slot % 8));
        }
        if living == self.living {
            return Ok(());
        }
        self.living = living;
        let place = u64::try_from(LIVING_AT).map_err(io::Error::other)?;
        self.files.values().try_for_each(|(own, _)| own.write_all_at(&living, place))
    }
}

/// Makes a file that only this process can write: a process of another user has no right to open it
/// again.
fn make(slot: usize, secret: &IdSecret, living: &[u8; LIVING]) -> io::Result<(File, File)> {
    let slot = u8::try_from(slot).map_err(io::Error::other)?;
    let own = File::from(memfd_create(c"release-ids", MFdFlags::MFD_CLOEXEC)?);
    fchmod(&own, Mode::S_IRUSR)?;
    own.write_all_at(&[&[slot][..], &secret.bytes(), living].concat(), 0)?;
    let given = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", own.as_raw_fd()))?;
    Ok((own, given))
}
