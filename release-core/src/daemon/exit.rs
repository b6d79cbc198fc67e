//! How a master or worker ends, as its `main` returns it to the system.

use std::process::{ExitCode, Termination};

use crate::Error;

/// The end of a master, a worker or a daemon: an exit status, and on failure the reason, which is
/// printed to standard error when `main` returns it.
///
/// | status | meaning |
/// |---|---|
/// | 0 | asked to stop, and everything stopped in order |
/// | 1 | it could not start, or failed; the reason is on standard error and in the log |
/// | 3 | asked to stop, but at least one worker had to be killed |
/// | 128 + n | the way of the OCaml library after signal n, when [`Master::exit_with_signal`] asks for it |
///
/// [`Master::exit_with_signal`]: crate::Master::exit_with_signal
#[derive(Debug)]
#[must_use = "return it from `main`: it carries the exit status"]
pub struct Exit {
    code: u8,
    error: Option<Error>,
}

/// The status of a stop in which workers had to be killed.
const KILLED: u8 = 3;

impl Exit {
    /// Everything went as asked.
    pub fn success() -> Self {
        Self { code: 0, error: None }
    }

    /// Failed, with the reason.
    pub fn failure(error: Error) -> Self {
        Self { code: 1, error: Some(error) }
    }

    pub(crate) fn killed(error: Error) -> Self {
        Self { code: KILLED, error: Some(error) }
    }

    pub(crate) fn after_signal(signal: nix::sys::signal::Signal) -> Self {
        let code = u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
        Self { code, error: None }
    }

    /// The exit status.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Why it is not 0, if there is a reason to print.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}

impl From<Result<(), Error>> for Exit {
    fn from(result: Result<(), Error>) -> Self {
        result.map_or_else(Self::failure, |()| Self::success())
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Self::failure(error)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        if let Some(error) = &self.error {
            let name = program_name();
            // Whether somebody hears it changes nothing about the exit status.
            crate::log::last_words(&format!("{name}: {}\n", error.report()));
        }
        ExitCode::from(self.code)
    }
}

/// The name this program was started by, without its directory.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or(&path);
    name.to_string_lossy().into_owned()
}
