//! What this process has from the version before.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{Kept, Summary};
use super::way_back::{Before, WayBack};
use super::{RETURN, SUCCEED, TRIAL, VARIABLE, inherited, trial};
use crate::daemon::Exit;
use crate::daemon::exit::program_name;
use crate::sys::image::{take_variable, unseal};
use crate::sys::process::set_name;
use crate::{Error, ErrorKind};

/// What this process is to the version before.
#[derive(Debug)]
pub(in crate::daemon) enum Heritage {
    /// Nothing: it was started.
    None,
    /// It says whether it could take over.
    Trial(Summary, Mutex<Option<OwnedFd>>),
    /// It is the master from now on.
    Successor(Box<Summary>, Mutex<Option<Inheritance>>),
}

/// What the master has taken over, or has back.
#[derive(Debug)]
pub(in crate::daemon) struct Inheritance {
    kept: Kept,
    way_back: Option<WayBack>,
    returned: Option<String>,
}

static HERITAGE: OnceLock<Result<Heritage, (ErrorKind, String)>> = OnceLock::new();

/// Read once.
pub(in crate::daemon) fn heritage() -> Result<&'static Heritage, Error> {
    let read = || Heritage::read().map_err(|error| (error.kind(), error.report()));
    HERITAGE.get_or_init(read).as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
}

impl Heritage {
    fn read() -> Result<Self, Error> {
        let variable = take_variable(VARIABLE).map_err(|error| {
            let message = "what the version before has left must be read before there are threads";
            Error::new(ErrorKind::Usage, message).caused_by(error)
        })?;
        let Some(variable) = variable else { return Ok(Self::None) };
        let variable = variable.to_string_lossy();
        if let Some(number) = variable.strip_prefix(TRIAL) {
            let state = inherited(number)?;
            let answer = inherited(&(state.as_raw_fd() + 1).to_string())?;
            return match Summary::decode(&read(&state)?) {
                Ok((summary, _)) => Ok(Self::Trial(summary, Mutex::new(Some(answer)))),
                Err(error) => trial::answer(answer, Err(error.report())),
            };
        }
        let (state, word) = match variable.strip_prefix(RETURN).and_then(|it| it.split_once(':')) {
            Some((state, word)) => (state, Some(inherited(word)?)),
            None => (variable.strip_prefix(SUCCEED).unwrap_or_default(), None),
        };
        let state = inherited(state)?;
        let bytes = read(&state)?;
        let (summary, rest) = Summary::decode(&bytes)?;
        if summary.pid != std::process::id() {
            return Err(Error::new(ErrorKind::Usage, "the state is another master's"));
        }
        let (mut kept, descriptors) = Kept::decode(rest)?;
        let image = kept.back.take().map(OwnedFd::from);
        let mut inheritance = Inheritance { kept, way_back: None, returned: None };
        match word {
            // There is no way back from there.
            Some(word) => {
                let (reason, signals): (_, Vec<i32>) =
                    postcard::from_bytes(&read(&word)?).unwrap_or_default();
                // The kernel has named it by the number of the descriptor.
                set_name(&program_name());
                inheritance.returned = Some(reason);
                inheritance.kept.signals.extend(signals);
            }
            None => {
                inheritance.way_back = image.map(|image| WayBack { state, descriptors, image });
            }
        }
        Ok(Self::Successor(Box::new(summary), Mutex::new(Some(inheritance))))
    }

    fn summary(&self) -> Option<&Summary> {
        match self {
            Self::None => None,
            Self::Trial(summary, _) => Some(summary),
            Self::Successor(summary, _) => Some(summary),
        }
    }

    /// What a version before has left to this one, its successor. Taken once.
    pub(in crate::daemon) fn take(&'static self) -> Option<Before> {
        let Self::Successor(summary, inheritance) = self else { return None };
        let inheritance = inheritance.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let Inheritance { kept, way_back, returned } = inheritance;
        Some(Before { summary, kept, way_back, returned })
    }

    /// Where the next version will be, as the version before has found it out.
    pub(in crate::daemon) fn executable(&self) -> Option<PathBuf> {
        self.summary().map(|summary| PathBuf::from(&summary.executable))
    }
}

/// In a trial: says how it went, and ends this process.
pub(in crate::daemon) fn answer(
    answer: &Mutex<Option<OwnedFd>>,
    outcome: Result<(), Error>,
) -> Exit {
    match answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(answer) => trial::answer(answer, outcome.map_err(|error| error.report())),
        // A second master in one program.
        None => Exit::success(),
    }
}

fn read(state: &OwnedFd) -> Result<Vec<u8>, Error> {
    unseal(state).map_err(|error| Error::system("cannot read what a master has left", error))
}

/// What the version before has left with [`Master::hand_over`](crate::Master::hand_over); `None`
/// when this process was started and is nobody's next version.
///
/// To be called before there are threads, and before [`Master::run`](crate::Master::run). In the
/// trial of an upgrade it returns what the master has at that moment, which goes on.
///
/// # Errors
///
/// When it was not left as a `T`, by the name of the type or by its encoding: the upgrade is refused
/// then, when the program passes the error on.
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
    let Some((name, bytes)) = &summary.left else { return Ok(None) };
    let expected = std::any::type_name::<T>();
    let refuse = |why: String| Error::new(ErrorKind::Change, why);
    if name != expected {
        let message =
            format!("the version before has left a `{name}`, this one takes `{expected}`");
        return Err(refuse(message));
    }
    postcard::from_bytes(bytes).map(Some).map_err(|error| {
        refuse(format!("what the version before has left is no `{expected}`")).caused_by(error)
    })
}
