//! The events of the supervisor.

use std::os::fd::RawFd;

use nix::sys::signal::Signal as Sig;

use super::processes::launch::{Launched, SpawnRequest};
use crate::Error;
use crate::master::handle::MasterCommand;
use crate::master::upgrade::Tried;
use crate::supervise::Event;

/// An event that wakes the supervisor.
#[derive(Debug)]
pub(super) enum MasterEvent {
    Pool(Event),
    Command(MasterCommand),
    Launched(SpawnRequest, Result<Box<Launched>, Error>),
    Signal(Sig),
    /// The settings of this generation were made, or could not be for this reason.
    Prepared(u32, Result<(), String>),
    /// These listening sockets were shut down, in this order.
    ShutDown(Vec<RawFd>),
    /// No request is in flight any more, or that took too long.
    AtRest {
        in_time: bool,
    },
    /// The result of the new version's trial.
    Tried(Box<Tried>),
    Failed(Error),
    /// A task of the program has failed.
    TaskFailed(Error),
}

impl MasterEvent {
    pub(super) fn caught(signal: std::io::Result<Sig>) -> Self {
        signal.map_or_else(
            |error| Self::Failed(Error::system("cannot catch signals", error)),
            Self::Signal,
        )
    }
}
