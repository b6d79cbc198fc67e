//! What this process has from the version before.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{self, Kept, Summary};
use super::trial;
use super::way_back::Before;
use crate::exit::Exit;
use crate::exit::program_name;
use crate::ipc::Postcard;
use crate::ipc::hello::Message;
use crate::start_files::Files;
use crate::streams;
use crate::sys::fds::take_inherited;
use crate::sys::image::unseal;
use crate::sys::image::way_back::{self, RETURN, SUCCEED, TRIAL, VARIABLE};
use crate::sys::process::set_name;
use crate::{Error, ErrorKind};

/// What this process is to the version before.
#[derive(Debug)]
pub(crate) enum Heritage {
    /// Nothing: it was started.
    None,
    /// It says whether it could take over.
    Trial(Box<Summary>, Mutex<Option<OwnedFd>>),
    /// It is the master from now on; again, when it `has_returned`.
    Successor {
        summary: Box<Summary>,
        inheritance: Mutex<Option<Box<Inheritance>>>,
        has_returned: bool,
    },
}

/// What the master has taken over, or has back.
#[derive(Debug)]
pub(crate) struct Inheritance {
    kept: Kept,
    returned: Option<String>,
}

static HERITAGE: OnceLock<Result<Heritage, (ErrorKind, String)>> = OnceLock::new();

/// Read once.
pub(crate) fn heritage() -> Result<&'static Heritage, Error> {
    let read = || Heritage::read().map_err(|error| (error.kind(), error.report()));
    HERITAGE.get_or_init(read).as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
}

impl Heritage {
    fn read() -> Result<Self, Error> {
        let Some(value) = way_back::value() else { return Ok(Self::None) };
        let value = value.to_string_lossy();
        let mut parts = value.split(':');
        let word = parts.next().unwrap_or_default();
        let numbers = parts.map(str::parse).collect::<Result<Vec<RawFd>, _>>();
        let numbers = numbers.map_err(|error| strange().caused_by(error))?;
        match (word, numbers.as_slice()) {
            (TRIAL, [state, answer]) => Self::trial(*state, *answer),
            (SUCCEED, [state, _]) => Self::successor(*state, None),
            (RETURN, [state, _, word]) => {
                let word = way_back::take(*word).map_err(|error| strange().caused_by(error))?;
                Self::successor(*state, Some(way_back::read_word(&word)))
            }
            _ => Err(strange()),
        }
    }

    fn trial(state: RawFd, answer: RawFd) -> Result<Self, Error> {
        let inherited = |number| take_inherited(number).map_err(|error| strange().caused_by(error));
        let (state, answer) = (inherited(state)?, inherited(answer)?);
        match read(&state).and_then(|bytes| state::understand(&bytes)) {
            Ok(summary) => Ok(Self::Trial(Box::new(summary), Mutex::new(Some(answer)))),
            Err(error) => trial::answer(answer, Err(error.report())),
        }
    }

    /// The master from now on, or again when the next version has `returned`, which has left signals
    /// and a reason.
    fn successor(state: RawFd, returned: Option<(Vec<i32>, String)>) -> Result<Self, Error> {
        let state = way_back::take(state).map_err(|error| strange().caused_by(error))?;
        let bytes = read(&state)?;
        let (summary, mut kept) = state::decode(&bytes)?;
        if summary.pid != std::process::id() {
            return Err(Error::new(ErrorKind::Usage, "the state is another master's"));
        }
        // The kernel has named it by the number of the descriptor.
        set_name(&program_name());
        let has_returned = returned.is_some();
        streams::take_over(std::mem::take(&mut kept.streams), !has_returned);
        let mut inheritance = Inheritance { kept, returned: None };
        if let Some((signals, reason)) = returned {
            inheritance.returned = Some(reason);
            inheritance.kept.signals.extend(signals);
        }
        let (summary, inheritance) = (Box::new(summary), Mutex::new(Some(Box::new(inheritance))));
        Ok(Self::Successor { summary, inheritance, has_returned })
    }

    /// What it is to find in files until it is the master.
    pub(crate) fn files(&self) -> Option<&Files> {
        match self {
            Self::None | Self::Trial(..) => None,
            Self::Successor { summary, has_returned: true, .. } => Some(&summary.files),
            Self::Successor { summary, .. } => Some(&summary.tried_files),
        }
    }

    /// Whether this version is the master again, which it was already.
    pub(crate) fn has_returned(&self) -> bool {
        matches!(self, Self::Successor { has_returned: true, .. })
    }

    fn summary(&self) -> Option<&Summary> {
        match self {
            Self::None => None,
            Self::Trial(summary, _) => Some(summary),
            Self::Successor { summary, .. } => Some(summary),
        }
    }

    /// What a version before has left to this one, its successor. Taken once.
    pub(crate) fn take(&'static self) -> Option<Before> {
        let Self::Successor { summary, inheritance, .. } = self else { return None };
        let inheritance = inheritance.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let Inheritance { kept, returned } = *inheritance;
        Some(Before { summary, kept, returned })
    }

    /// Where the next version will be, as the version before has found it out.
    pub(crate) fn executable(&self) -> Option<PathBuf> {
        self.summary().map(|summary| PathBuf::from(&summary.executable))
    }
}

/// In a trial: says how it went, and ends this process.
pub(crate) fn answer(answer: &Mutex<Option<OwnedFd>>, outcome: Result<(), Error>) -> Exit {
    match answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(answer) => trial::answer(answer, outcome.map_err(|error| error.report())),
        // A second master in one program.
        None => Exit::success(),
    }
}

fn strange() -> Error {
    let name = VARIABLE.to_string_lossy();
    let message = format!("the variable {name} is only set by a master of this library: unset it");
    Error::new(ErrorKind::Usage, message)
}

fn read(state: &OwnedFd) -> Result<Vec<u8>, Error> {
    unseal(state).map_err(|error| Error::system("cannot read what a master has left", error))
}

/// What the version before has left with [`Master::hand_over`](crate::Master::hand_over); `None`
/// when this process was started and is nobody's next version.
///
/// In the trial of an upgrade it returns what the master has at that moment, which goes on.
///
/// # Errors
///
/// When it was left as a type with other fields or variants than `T`, but for variants at the end
/// that are new: the upgrade is refused then, when the program passes the error on.
///
/// # Examples
///
/// ```
/// let counter: u64 = release_core::handed_over()?.unwrap_or(0);
/// # assert_eq!(counter, 0);
/// # Ok::<(), release_core::Error>(())
/// ```
pub fn handed_over<T: Serialize + DeserializeOwned>() -> Result<Option<T>, Error> {
    let Some(summary) = heritage()?.summary() else { return Ok(None) };
    let Some((left, bytes)) = &summary.left else { return Ok(None) };
    Message::of::<T>(&Postcard).read(left, bytes).map(Some)
}
