//! State that this process has from the previous version.

use std::os::fd::OwnedFd;
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
use crate::predecessor::{Left, left};
use crate::streams;
use crate::sys::process::set_name;
use crate::{Error, ErrorKind};

/// Role of this process for the previous version.
#[derive(Debug)]
pub(crate) enum Heritage {
    /// Nothing: it was started.
    None,
    /// It says whether it could take over.
    Trial(Box<Summary>, &'static Mutex<Option<OwnedFd>>),
    /// It is the master from now on; again, when it `has_returned`.
    Successor {
        summary: Box<Summary>,
        inheritance: Mutex<Option<Box<Inheritance>>>,
        has_returned: bool,
    },
}

/// State that the master has taken over, or has back.
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
                        Some(answer) => trial::answer(answer, Err(why)),
                        None => Err(Error::new(ErrorKind::Change, why)),
                    },
                }
            }
            Left::State { state, returned } => Self::successor(state, returned.clone()),
        }
    }

    /// The master from now on, or again when the next version has `returned`, which has left signals
    /// and a reason.
    fn successor(state: &[u8], returned: Option<(Vec<i32>, String)>) -> Result<Self, Error> {
        let (summary, mut kept) = state::decode(state)?;
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

    /// Takes the state that the previous version has left to this one. Taken once.
    pub(crate) fn take(&'static self) -> Option<Before> {
        let Self::Successor { summary, inheritance, .. } = self else { return None };
        let Inheritance { kept, returned } = *take(inheritance)?;
        Some(Before { summary, kept, returned })
    }

    /// Where the next version will be, as the version before has found it out.
    pub(crate) fn executable(&self) -> Option<PathBuf> {
        self.summary().map(|summary| PathBuf::from(&summary.executable))
    }
}

fn take<T>(once: &Mutex<Option<T>>) -> Option<T> {
    once.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// In a trial: says how it went, and ends this process.
pub(crate) fn answer(answer: &Mutex<Option<OwnedFd>>, outcome: Result<(), Error>) -> Exit {
    match take(answer) {
        Some(answer) => trial::answer(answer, outcome.map_err(|error| error.report())),
        // A second master in one program.
        None => Exit::success(),
    }
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
