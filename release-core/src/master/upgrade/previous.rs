//! `UpgradeRole` and `Previous`: the part of this process in an upgrade, and its state from the previous
//! version. A new version that cannot start after all becomes the previous one again.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::preflight;
use super::state::{self, Kept, Summary};
use crate::exit::Exit;
use crate::exit::program_name;
use crate::ipc::Postcard;
use crate::ipc::hello::MessageType;
use crate::predecessor::{Left, left};
use crate::start_files;
use crate::streams;
use crate::sys::image::way_back;
use crate::sys::process::set_name;
use crate::{Error, ErrorKind};

/// Role of this process in an upgrade.
#[derive(Debug)]
pub(crate) enum UpgradeRole {
    /// None: it was started normally.
    None,
    /// Reports whether it could take over.
    Trial(Box<Summary>, &'static Mutex<Option<OwnedFd>>),
    /// Is the master from now on; again, if the next version has `returned` with a reason.
    Successor { summary: Box<Summary>, kept: Mutex<Option<Box<Kept>>>, returned: Option<String> },
}

static ROLE: OnceLock<Result<UpgradeRole, (ErrorKind, String)>> = OnceLock::new();

/// Returns the role of this process, which is read once.
pub(crate) fn upgrade_role() -> Result<&'static UpgradeRole, Error> {
    let read = || UpgradeRole::read().map_err(|error| (error.kind(), error.report()));
    ROLE.get_or_init(read).as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
}

impl UpgradeRole {
    fn read() -> Result<Self, Error> {
        match left()? {
            Left::Nothing => Ok(Self::None),
            Left::Trial { state, answer } => {
                let understood = match state {
                    Ok(state) => state::understand(state).map_err(|error| error.report()),
                    Err(why) => Err(why.clone()),
                };
                match understood {
                    Ok(summary) => Ok(Self::Trial(Box::new(summary), answer)),
                    Err(why) => match take(answer) {
                        Some(answer) => preflight::answer(answer, Err(why)),
                        None => Err(Error::new(ErrorKind::Change, why)),
                    },
                }
            }
            Left::State { state, returned } => Self::successor(state, returned.clone()),
        }
    }

    /// Reads the state of the master from now on, or again if the next version has `returned` with
    /// signals and a reason.
    fn successor(state: &[u8], returned: Option<(Vec<i32>, String)>) -> Result<Self, Error> {
        let (summary, mut kept) = state::decode(state)?;
        if summary.pid != std::process::id() {
            return Err(Error::new(ErrorKind::Usage, "the state is another master's"));
        }
        // The kernel has named it after the number of the descriptor.
        set_name(&program_name());
        streams::take_over(std::mem::take(&mut kept.streams), returned.is_none());
        let returned = returned.map(|(signals, reason)| {
            kept.signals.extend(signals);
            reason
        });
        let (summary, kept) = (Box::new(summary), Mutex::new(Some(Box::new(kept))));
        Ok(Self::Successor { summary, kept, returned })
    }

    /// Returns whether this version is the master again.
    pub(crate) fn has_returned(&self) -> bool {
        matches!(self, Self::Successor { returned: Some(_), .. })
    }

    fn summary(&self) -> Option<&Summary> {
        match self {
            Self::None => None,
            Self::Trial(summary, _) => Some(summary),
            Self::Successor { summary, .. } => Some(summary),
        }
    }

    /// Takes the state of the previous version. Returns it only once.
    pub(crate) fn take(&'static self) -> Option<Previous> {
        let Self::Successor { summary, kept, returned } = self else { return None };
        Some(Previous { summary, kept: *take(kept)?, returned: returned.clone() })
    }

    /// Returns the path of the next version, as found by the previous version.
    pub(crate) fn executable(&self) -> Option<PathBuf> {
        self.summary().map(|summary| PathBuf::from(&summary.executable))
    }
}

fn take<T>(once: &Mutex<Option<T>>) -> Option<T> {
    once.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Reports the outcome of a trial, and ends this process.
pub(crate) fn answer(answer: &Mutex<Option<OwnedFd>>, outcome: Result<(), Error>) -> Exit {
    match take(answer) {
        Some(answer) => preflight::answer(answer, outcome.map_err(|error| error.report())),
        // This is a second master in one program.
        None => Exit::success(),
    }
}

/// State of the previous version. As long as there is a way back, its descriptors stay open unchanged,
/// and only duplicates are used.
pub(crate) struct Previous {
    pub(crate) summary: &'static Summary,
    pub(crate) kept: Kept,
    /// The reason for the return of the new version, in the old one.
    pub(crate) returned: Option<String>,
}

impl Previous {
    /// Ignores an error in a version that is the master again: it has all that it needs.
    pub(crate) fn never_fails(&self, done: Result<(), Error>) -> Result<(), Error> {
        match done {
            Err(error) if self.returned.is_some() => {
                log_error!(reason = error.report(), "going on without it");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Makes this version the master for good.
pub(crate) fn commit() {
    start_files::started();
    way_back::close();
    streams::release();
}

/// Becomes the previous version again because of this error, with the signals that have arrived.
/// Returns the error if there is no previous version, or it cannot be run.
///
/// Nothing that was taken over may have been closed or changed.
pub(crate) fn roll_back(error: Error, signals: &[i32]) -> Error {
    if way_back::is_set() {
        log_error!(reason = error.report(), "the new version cannot start and turns back");
        if let Some(failed) = way_back::walk(&error.report(), signals) {
            streams::release();
            log_error!(reason = %failed, "it cannot turn back");
        }
    }
    error
}

/// Returns the state that the previous version has left with
/// [`Master::hand_over`](crate::Master::hand_over); `None` if this process was started normally.
///
/// In the trial of an upgrade it returns the present state of the master, which continues.
///
/// # Errors
///
/// Returns an error if the state has other fields or variants than `T`, except for new variants at the
/// end. Return the error from `main`: the upgrade is refused then.
///
/// # Examples
///
/// ```
/// let counter: u64 = release_core::handed_over()?.unwrap_or(0);
/// # assert_eq!(counter, 0);
/// # Ok::<(), release_core::Error>(())
/// ```
pub fn handed_over<T: Serialize + DeserializeOwned>() -> Result<Option<T>, Error> {
    let Some(summary) = upgrade_role()?.summary() else { return Ok(None) };
    let Some((left, bytes)) = &summary.left else { return Ok(None) };
    MessageType::of::<T>(&Postcard).read(left, bytes).map(Some)
}
