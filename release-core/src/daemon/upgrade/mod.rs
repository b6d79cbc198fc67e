//! Upgrade in place (row D4): a new version of the program becomes the master by exec, and keeps its
//! process number, lock, sockets, workers and connections.
//!
//! The new version is tried first, as a child. Then everything that the master has to know goes into
//! a sealed file in memory, and the descriptors stay open across the exec by their numbers. One
//! environment variable says so to the new version, which removes it when it reads it.

mod inherited;
mod origin;
mod rehearsal;
mod state;
mod trial;
mod way_back;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::control::Served;
use super::group::Group;
use super::hello::PROTOCOL;
use super::lock::LockFile;
use crate::guard::Guard;
use crate::sys::image::seal;
use crate::sys::resources::open_files_before;
use crate::sys::signal;
use crate::{Error, ErrorKind};

pub use inherited::handed_over;
pub(super) use inherited::{Heritage, answer, heritage};
pub(crate) use origin::Version;
pub(super) use origin::{Origin, working_directory};
pub(crate) use state::{GroupTypes, Kept, KeptWorker, Summary};
use trial::Trial;
pub(super) use way_back::{Before, turn_back};

/// The variable by which a new version knows what it is for.
const VARIABLE: &str = "RELEASE_UPGRADE";

/// What it says, before the number of the descriptor with the state. In a trial, the descriptor to
/// answer on comes after that one.
const TRIAL: &str = "trial:";
const SUCCEED: &str = "succeed:";

/// The same, in the version before, when the new one has come back; then the number of the reason.
const RETURN: &str = "return:";

const HAND_OVER: Guard = Guard::new("hand_over");

/// What the program leaves to its next version.
pub(super) type HandOver = Box<dyn Fn() -> Result<(String, Vec<u8>), Error> + Send>;

pub(super) fn hand_over<T: Serialize>(value: impl Fn() -> T + Send + 'static) -> HandOver {
    Box::new(move || {
        let bytes = HAND_OVER.call(|| postcard::to_stdvec(&value())).map_err(|panicked| {
            let message = "what the program hands over is not known";
            Error::new(ErrorKind::Program, message).caused_by(panicked)
        })?;
        let bytes = bytes.map_err(|error| {
            let message = "what the program hands over cannot be encoded";
            Error::new(ErrorKind::Usage, message).caused_by(error)
        })?;
        Ok((std::any::type_name::<T>().to_owned(), bytes))
    })
}

/// What the master has beside its workers, and leaves to the next version.
pub(crate) struct Estate {
    pub(super) origin: Origin,
    pub(super) is_background: bool,
    pub(super) lock: Option<Arc<LockFile>>,
    pub(crate) controls: Vec<Served>,
    pub(super) hand_over: Option<HandOver>,
}

impl std::fmt::Debug for Estate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Estate").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Estate {
    /// Starts the trial of the new version, which is the file at the executable's path.
    pub(crate) fn try_out(
        &self,
        pool: Vec<u8>,
        groups: &[Group],
    ) -> Result<(Trial, Version), Error> {
        let version = self.origin.place()?.version()?;
        Ok((Trial::begin(&self.origin, &self.summary(pool, groups)?)?, version))
    }

    fn summary(&self, pool: Vec<u8>, groups: &[Group]) -> Result<Summary, Error> {
        let lock = self.lock.as_ref().map(|lock| OsString::from(lock.path()));
        Ok(Summary {
            pid: std::process::id(),
            protocol: PROTOCOL,
            executable: self.origin.place()?.executable.clone().into(),
            is_background: self.is_background,
            open_files: open_files_before(),
            lock,
            controls: self.controls.iter().map(|served| served.path().into()).collect(),
            listeners: groups.iter().flat_map(Group::listener_keys).collect(),
            pool,
            groups: groups.iter().map(Group::spoken).collect(),
            left: self.hand_over.as_ref().map(|left| left()).transpose()?,
        })
    }

    /// Becomes the new version, if it is the one that was tried.
    ///
    /// # Errors
    ///
    /// When that failed; nothing has changed then.
    pub(crate) fn leave(
        &self,
        version: Version,
        pool: Vec<u8>,
        groups: &[Group],
        mut kept: Kept,
    ) -> Result<Infallible, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        if let Some(lock) = &self.lock {
            kept.lock = Some((lock.path().into(), lock.duplicate()?.into()));
        }
        for group in groups {
            kept.listeners.extend(group.opened_listeners()?);
        }
        kept.back = Some(own_image()?.into());
        let mut bytes = self.summary(pool, groups)?.encode()?;
        let (parcel, mut descriptors) = kept.encode()?;
        // Duplicates of all are with the parcel.
        drop(kept);
        bytes.extend(parcel);
        let state = seal(&bytes).map_err(failed("cannot write the state down"))?;
        let value = format!("{SUCCEED}{}", state.as_raw_fd());
        descriptors.push(state);
        let image = self.origin.image(VARIABLE, value)?;
        let place = self.origin.place()?;
        let path = place.executable.display();
        if place.version()? != version {
            let message = format!("{path} was replaced while it was tried: ask again");
            return Err(Error::new(ErrorKind::Change, message));
        }
        let here = Here::leave_for(&place.directory)?;
        let error = image.become_it(None, &descriptors);
        drop(here);
        Err(Error::system(format!("cannot run {path}"), error))
    }
}

/// The file that this process runs, whatever is at its path by now.
pub(crate) fn own_image() -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(libc::O_PATH).open("/proc/self/exe");
    let failed = |error| Error::system("cannot open the present executable", error);
    opened.map(OwnedFd::from).map_err(failed)
}

/// The working directory, until the one of the start is left again.
struct Here(PathBuf);

impl Here {
    fn leave_for(directory: &std::path::Path) -> Result<Self, Error> {
        let here = std::env::current_dir()
            .map_err(|error| Error::system("cannot read the working directory", error))?;
        std::env::set_current_dir(directory).map_err(|error| {
            let message =
                format!("cannot go back to where it was started, {}", directory.display());
            Error::system(message, error)
        })?;
        Ok(Self(here))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = std::env::set_current_dir(&self.0);
    }
}

/// Signals kept back until this is dropped, or the next version asks for them.
pub(crate) struct Blocked(nix::sys::signal::SigSet);

impl Blocked {
    pub(crate) fn all() -> Result<Self, Error> {
        let before = signal::block_all()
            .map_err(|error| Error::system("cannot keep signals back", error))?;
        Ok(Self(before))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        signal::block_only(&self.0);
    }
}

/// A descriptor that this process was started with.
fn inherited(number: &str) -> Result<OwnedFd, Error> {
    let strange = || {
        let message =
            format!("the variable {VARIABLE} is only set by a master of this library: unset it");
        Error::new(ErrorKind::Usage, message)
    };
    let number = number.parse().map_err(|_| strange())?;
    crate::sys::fds::take_inherited(number).map_err(|error| strange().caused_by(error))
}
