//! The settings of a new process.

use std::ffi::CString;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use crate::sys::confinement::Confinement;
use crate::sys::creds::ProcessCredentials;
use crate::sys::resources::Resources;

/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_PASSED: RawFd = 3;

/// The settings of a new process.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: CString,
    /// An executable that is run regardless of the file at the path of `program`.
    pub(crate) image: Option<Arc<OwnedFd>>,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`. The environment of the new process contains only these
    pub(crate) environment: Vec<CString>,
    /// and its own pid under these names.
    pub(crate) own_pid: Vec<&'static str>,
    pub(crate) resources: Resources,
    /// Another root directory.
    pub(crate) root: Option<CString>,
    /// Another working directory, in that.
    pub(crate) directory: Option<CString>,
    pub(crate) identity: Identity,
    pub(crate) confinement: Option<Confinement>,
}

/// The identity of a new process.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The same as this process, with all its rights.
    Same,
    /// The same user, without capabilities: any that a master other than root was given are for the
    /// master only.
    Powerless,
    Other(ProcessCredentials),
}

impl Identity {
    /// Returns the identity of a process with these credentials, or without any. Root may run commands
    /// as itself, with all capabilities.
    pub(crate) fn of(credentials: Option<ProcessCredentials>) -> Self {
        match credentials {
            Some(credentials) => Self::Other(credentials),
            None if nix::unistd::geteuid().is_root() => Self::Same,
            None => Self::Powerless,
        }
    }

    /// Returns the account of another user.
    pub(crate) fn account(&self) -> Option<&str> {
        match self {
            Self::Other(credentials) => Some(&credentials.name),
            Self::Same | Self::Powerless => None,
        }
    }
}
