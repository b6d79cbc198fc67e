//! The data that the previous version left to this process, if this is its next version, or the
//! previous version again: bytes of which the master and the start files each read their part.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock};

use crate::sys::fds::take_inherited;
use crate::sys::image::unseal;
use crate::sys::image::way_back::{self, RETURN, SUCCEED, TRIAL, VARIABLE};
use crate::{Error, ErrorKind};

/// The relation of this process to the previous version.
#[derive(Debug)]
pub(crate) enum Left {
    /// None: it was started normally.
    Nothing,
    /// It is on trial, and answers whether it can read and understand the state.
    Trial { state: Result<Vec<u8>, String>, answer: Mutex<Option<OwnedFd>> },
    /// It is the master from now on; or again, if the next version has `returned`, which leaves
    /// signals and a reason.
    State { state: Vec<u8>, returned: Option<(Vec<i32>, String)> },
}

/// Returns the data left by the previous version, which is read only once.
pub(crate) fn left() -> Result<&'static Left, Error> {
    static LEFT: OnceLock<Result<Left, (ErrorKind, String)>> = OnceLock::new();
    let read = || Left::read().map_err(|error| (error.kind(), error.report()));
    LEFT.get_or_init(read).as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
}

impl Left {
    fn read() -> Result<Self, Error> {
        let Some(value) = way_back::value() else { return Ok(Self::Nothing) };
        let value = value.to_string_lossy();
        let mut parts = value.split(':');
        let word = parts.next().unwrap_or_default();
        let numbers = parts.map(str::parse).collect::<Result<Vec<RawFd>, _>>();
        let numbers = numbers.map_err(|error| strange().caused_by(error))?;
        let inherited = |number| take_inherited(number).map_err(|error| strange().caused_by(error));
        let kept = |number| way_back::take(number).map_err(|error| strange().caused_by(error));
        match (word, numbers.as_slice()) {
            (TRIAL, [state, answer]) => {
                let (state, answer) = (inherited(*state)?, inherited(*answer)?);
                let state = read(&state).map_err(|error| error.report());
                Ok(Self::Trial { state, answer: Mutex::new(Some(answer)) })
            }
            (SUCCEED, [state, _]) => {
                Ok(Self::State { state: read(&kept(*state)?)?, returned: None })
            }
            (RETURN, [state, _, word]) => {
                let returned = Some(way_back::read_word(&kept(*word)?));
                Ok(Self::State { state: read(&kept(*state)?)?, returned })
            }
            _ => Err(strange()),
        }
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
