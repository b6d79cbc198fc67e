//! Upgrade in place: a new version of the program becomes the master by exec, and keeps its
//! process number, lock, sockets, workers and connections.
//!
//! The new version is tried first, as a child. Then everything that the master has to know goes into
//! a sealed file in memory, and the descriptors stay open across the exec by their numbers. One
//! environment variable says so to the new version, which removes it when it reads it.

mod invocation;
mod preflight;
mod previous;
mod state;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::control::ControlHandle;
use super::group::Group;
use crate::daemonize::lock::LockFile;
use crate::guard::Guard;
use crate::ipc::hello::{MessageType, PROTOCOL};
use crate::ipc::{Codec, Postcard};
use crate::kept::{self, Files};
use crate::start_files;
use crate::sys::fds::replace;
use crate::sys::image::seal;
use crate::sys::image::way_back::{FORMAT, RETURN, SUCCEED, WayBack, word};
use crate::sys::resources::open_files_before;
use crate::sys::signal;
use crate::{Error, ErrorKind};

pub(crate) use invocation::{Invocation, own_image, working_directory};
use preflight::Trial;
pub(crate) use preflight::Tried;
pub use previous::handed_over;
pub(crate) use previous::{Previous, UpgradeRole, answer, commit, roll_back, upgrade_role};
pub(crate) use state::{Kept, KeptWorker, Summary};

const HAND_OVER: Guard = Guard::new("hand_over");

/// State that the program leaves to its next version.
pub(crate) struct HandOver {
    message: MessageType,
    encode: Box<dyn Fn() -> Result<Vec<u8>, Error> + Send>,
}

impl HandOver {
    pub(crate) fn new<T>(value: impl Fn() -> T + Send + 'static) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        let encode = move || {
            let encoded = HAND_OVER.call(|| {
                let mut bytes = Vec::new();
                Postcard.encode(&value(), &mut bytes).map(|()| bytes)
            });
            let encoded = encoded.map_err(|panicked| {
                let message = "what the program hands over is not known";
                Error::new(ErrorKind::Program, message).caused_by(panicked)
            })?;
            encoded.map_err(|error| {
                let message = "what the program hands over cannot be encoded";
                Error::new(ErrorKind::Usage, message).caused_by(error)
            })
        };
        Self { message: MessageType::of::<T>(&Postcard), encode: Box::new(encode) }
    }

    /// Checks that the next version can read it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.message.check("what the program hands over")
    }

    fn leave(&self) -> Result<(MessageType, Vec<u8>), Error> {
        Ok((self.message.clone(), (self.encode)()?))
    }
}

/// Parts of the master beside its workers, which it leaves to the next version.
pub(crate) struct Upgrader {
    pub(crate) invocation: Invocation,
    pub(crate) is_background: bool,
    pub(crate) lock: Option<Arc<LockFile>>,
    pub(crate) controls: Vec<ControlHandle>,
    pub(crate) hand_over: Option<HandOver>,
}

impl std::fmt::Debug for Upgrader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrader").field("invocation", &self.invocation).finish_non_exhaustive()
    }
}

impl Upgrader {
    /// Starts the trial of the new version, the file at the executable's path.
    pub(crate) fn try_out(
        &self,
        pool: kept::Pool,
        groups: &[Group],
        mut kept: Kept,
    ) -> Result<Trial, Error> {
        let version = self.invocation.location()?.version()?;
        for control in &self.controls {
            kept.controls.push(control.sample()?);
        }
        self.add_to(&mut kept, groups)?;
        // The descriptors stay here: a trial receives only the bytes.
        let (state, _) = state::encode(self.summary(pool, groups)?, kept)?;
        Trial::begin(&self.invocation, version, &state)
    }

    fn add_to(&self, kept: &mut Kept, groups: &[Group]) -> Result<(), Error> {
        if let Some(lock) = &self.lock {
            kept.lock = Some((lock.path().into(), lock.duplicate()?.into()));
        }
        for group in groups {
            kept.listeners.extend(group.opened_listeners()?);
        }
        Ok(())
    }

    fn summary(&self, pool: kept::Pool, groups: &[Group]) -> Result<Summary, Error> {
        let lock = self.lock.as_ref().map(|lock| OsString::from(lock.path()));
        Ok(Summary {
            pid: std::process::id(),
            protocol: PROTOCOL,
            executable: self.invocation.location()?.executable.clone().into(),
            is_background: self.is_background,
            open_files: open_files_before(),
            lock,
            controls: self.controls.iter().map(|served| served.path().into()).collect(),
            listeners: groups.iter().flat_map(Group::listener_keys).collect(),
            pool,
            way_back: FORMAT.to_owned(),
            groups: groups.iter().map(Group::spoken).collect(),
            left: self.hand_over.as_ref().map(HandOver::leave).transpose()?,
            files: start_files::read_so_far(),
            tried_files: Files::default(),
        })
    }

    /// Becomes the new version, if no other version has taken its place since the trial.
    ///
    /// # Errors
    ///
    /// Returns an error if that failed. Nothing has changed then.
    pub(crate) fn leave(
        &self,
        mut tried: Tried,
        pool: kept::Pool,
        groups: &[Group],
        mut kept: Kept,
    ) -> Result<Infallible, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        self.add_to(&mut kept, groups)?;
        let mut summary = self.summary(pool, groups)?;
        summary.tried_files = std::mem::take(&mut tried.files);
        let (bytes, mut descriptors) = state::encode(summary, kept)?;
        let state = seal(&bytes).map_err(failed("cannot write the state down"))?;
        let number = state.as_raw_fd();
        descriptors.push(state);
        let back = self.way_back(&mut descriptors)?;
        tried.told(&format!("{SUCCEED}:{number}:{}", back.as_raw_fd()))?;
        descriptors.push(back);
        let location = self.invocation.location()?;
        let path = location.executable.display();
        if location.version()? != tried.version || tried.is_replaced() {
            let message = format!("{path} was replaced while it was tried: ask again");
            return Err(Error::new(ErrorKind::Change, message));
        }
        let here = Here::leave_for(&tried.directory)?;
        let error = tried.image.become_it(&descriptors);
        drop(here);
        Err(Error::system(format!("cannot run {path}"), error))
    }

    /// Describes how to run this version again with these descriptors, the last of which is the state.
    /// Adds further descriptors that it needs.
    fn way_back(&self, descriptors: &mut Vec<OwnedFd>) -> Result<OwnedFd, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        let directory = self.invocation.location()?.way_back()?;
        let (image, word) = (own_image()?, word().map_err(failed("cannot make a file in memory"))?);
        let state = descriptors.last().map_or(-1, AsRawFd::as_raw_fd);
        // The file that contains this description must contain its own number.
        let placeholder = word.try_clone().map_err(failed("cannot duplicate a descriptor"))?;
        let value = format!("{RETURN}:{state}:{}:{}", placeholder.as_raw_fd(), word.as_raw_fd());
        let way_back = WayBack {
            image: image.as_fd(),
            word: word.as_fd(),
            directory: directory.as_fd(),
            kept: descriptors.iter().map(AsRawFd::as_raw_fd).collect(),
            arguments: &self.invocation.arguments,
            environment: self.invocation.told(&value)?,
        };
        let back = seal(&way_back.encode()).map_err(failed("cannot write the way back down"))?;
        let back = replace(placeholder, back).map_err(failed("cannot duplicate a descriptor"))?;
        descriptors.extend([image, word, directory]);
        Ok(back)
    }
}

/// The working directory, entered again when this is dropped.
struct Here(OwnedFd);

impl Here {
    fn leave_for(directory: &OwnedFd) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let here = options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(".");
        let here =
            here.map_err(|error| Error::system("cannot open the working directory", error))?;
        nix::unistd::fchdir(directory)
            .map_err(|error| Error::system("cannot go to where the new version starts", error))?;
        Ok(Self(here.into()))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = nix::unistd::fchdir(&self.0);
    }
}

/// Blocks all signals until this is dropped, or the next version unblocks them.
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
