//! The result of a master or worker, as returned by its `main`.

use std::error::Error as StdError;
use std::process::{ExitCode, Termination};

use crate::{Error, ErrorKind};

/// The result of a master, a worker or a daemon: an exit status, and on failure the reason, which
/// is printed to standard error when your `main` returns it.
///
/// | status | meaning |
/// |---|---|
/// | 0 | asked to stop, and everything stopped in order |
/// | 1 | it could not start, or failed; the reason is on standard error and in the log |
/// | 3 | asked to stop, but at least one worker had to be killed |
/// | 128 + n | the way of the OCaml library after signal n, when [`Master::exit_with_signal`] asks for it |
///
/// # Examples
///
/// ```
/// use release_core::Exit;
///
/// fn main() -> Exit {
///     match std::env::current_dir() {
///         Ok(_) => Exit::success(),
///         Err(error) => Exit::failure(error),
///     }
/// }
/// ```
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
    /// Returns the result of a successful run.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(release_core::Exit::success().code(), 0);
    /// ```
    pub fn success() -> Self {
        Self { code: 0, error: None }
    }

    /// Returns a failure with its reason, which may be any error. Your `main` can also use it for
    /// errors before the master exists.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::{Error, Exit, Master};
    /// use release_core::rt::local::Local;
    ///
    /// fn master() -> Result<Exit, Box<dyn std::error::Error + Send + Sync>> {
    ///     let port: u16 = std::fs::read_to_string("/etc/port")?.trim().parse()?;
    ///     println!("port {port}");
    ///     Ok(Master::new().run(Local::new))
    /// }
    ///
    /// fn main() -> Exit {
    ///     master().unwrap_or_else(Exit::failure)
    /// }
    /// ```
    pub fn failure(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let error = match error.into().downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::new(ErrorKind::Program, "cannot start").caused_by(other),
        };
        Self { code: 1, error: Some(error) }
    }

    pub(crate) fn killed(error: Error) -> Self {
        Self { code: KILLED, error: Some(error) }
    }

    pub(crate) fn after_signal(signal: nix::sys::signal::Signal) -> Self {
        let code = u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
        Self { code, error: None }
    }

    /// Returns the exit status.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Exit;
    ///
    /// assert_eq!(Exit::failure("no database").code(), 1);
    /// ```
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Returns the reason of a failure, if there is one to print.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Exit;
    ///
    /// let exit = Exit::failure("no database");
    /// assert_eq!(exit.error().map(|error| error.report()), Some("cannot start: no database".into()));
    /// ```
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
            crate::sys::image::way_back::say(&error.report());
            // The exit status does not depend on whether the message is read.
            crate::streams::last_words(&format!("{name}: {}\n", error.report()));
        }
        ExitCode::from(self.code)
    }
}

/// Returns the name of this program as it was started, without its directory.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or(&path);
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_a_failure_and_one_of_ours_keeps_its_kind() {
        let ours = Exit::failure(Error::new(ErrorKind::Usage, "no workers"));
        assert_eq!(ours.error().map(Error::kind), Some(ErrorKind::Usage));
        let other = Exit::failure(std::io::Error::other("no database"));
        assert_eq!((other.code(), other.error().map(Error::kind)), (1, Some(ErrorKind::Program)));
        assert_eq!(other.error().map(Error::report).as_deref(), Some("cannot start: no database"));
    }
}
