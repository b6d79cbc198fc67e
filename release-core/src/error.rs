//! The error type for starting, running and stopping processes.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use crate::sys::resources::in_words;

/// An error message for the reader of the log, and the kind of the error.
///
/// [`Display`](fmt::Display) prints one level; [`Error::report`] prints the whole chain of causes.
///
/// # Examples
///
/// ```
/// use release_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Usage, "the pool has no workers");
/// assert_eq!(error.kind(), ErrorKind::Usage);
/// assert_eq!(error.report(), "the pool has no workers");
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of errors, for callers that distinguish them.
///
/// # Examples
///
/// ```
/// use release_core::{Error, ErrorKind};
///
/// fn exit_status(error: &Error) -> u8 {
///     match error.kind() {
///         ErrorKind::AlreadyRunning => 0,
///         ErrorKind::Usage | ErrorKind::Configuration => 2,
///         _ => 1,
///     }
/// }
/// assert_eq!(exit_status(&Error::new(ErrorKind::Usage, "no such command")), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program's request is impossible: fix the program or its arguments.
    Usage,
    /// The configuration file cannot be read or has errors. The message lists all of them.
    Configuration,
    /// Another instance holds the lock file, or answers on the control socket.
    AlreadyRunning,
    /// A user, group or privilege is missing or differs from the requested one.
    Privileges,
    /// A worker could not be started, or failed repeatedly; or a child of
    /// [`MasterHandle::spawn`](crate::MasterHandle::spawn) could not be started.
    Worker,
    /// A change of the running master was refused or rolled back: the previous state remains.
    Change,
    /// The master and its worker use different protocols.
    Protocol,
    /// The operating system reported an error. The source is the [`io::Error`].
    System,
    /// Your daemon's code (its `main`, a worker's function) returned an error.
    Program,
}

impl Error {
    /// Creates an error with your message.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Usage, "the pool has no workers");
    /// assert_eq!(error.to_string(), "the pool has no workers");
    /// ```
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// Adds the cause of the error.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Program, "cannot open the cache").caused_by("no space left");
    /// assert_eq!(error.report(), "cannot open the cache: no space left");
    /// ```
    #[cold]
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Creates the error of a failed system call. `message` describes the attempted operation.
    #[cold]
    pub(crate) fn system(message: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::new(ErrorKind::System, message).caused_by(source.into())
    }

    /// Like [`system`](Self::system), for a file to be created. Reports a missing directory.
    #[cold]
    pub(crate) fn making(message: String, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let directory = path.parent().filter(|_| source.kind() == io::ErrorKind::NotFound);
        let missing = directory.filter(|directory| std::fs::metadata(directory).is_err());
        let hint = missing.map_or_else(String::new, |directory| {
            format!(": there is no directory {}, make it first", directory.display())
        });
        Self::system(message + &hint, source)
    }

    /// Returns the kind of the error.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, ErrorKind};
    ///
    /// assert_eq!(Error::new(ErrorKind::Usage, "no such command").kind(), ErrorKind::Usage);
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message and all its causes on one line, separated by `: `.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, ErrorKind};
    ///
    /// let cause = std::io::Error::other("the disk is broken");
    /// let error = Error::new(ErrorKind::System, "cannot read the cache").caused_by(cause);
    /// assert_eq!(error.report(), "cannot read the cache: the disk is broken");
    /// ```
    #[must_use]
    pub fn report(&self) -> String {
        chain(self)
    }
}

/// Returns an error and its causes on one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        match cause.downcast_ref::<io::Error>() {
            Some(error) => text.push_str(&in_words(error)),
            None => text.push_str(&cause.to_string()),
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
