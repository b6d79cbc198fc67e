//! Readiness as in s6: the worker writes a newline to a descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::read;

use super::duplicate;
use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::process::attach::WorkerEvent;
use crate::rt::{Direction, Io, Progress, Rt};

/// Maximum number of bytes before the newline, which are ignored as by s6.
const MOST: usize = 4096;

/// The reading end of the pipe for the newline.
#[derive(Debug)]
pub(super) struct Newline(OwnedFd);

impl Newline {
    /// Returns the reading end, and the writing end for the worker.
    pub(super) fn new() -> Result<(Self, OwnedFd), Error> {
        let (ours, theirs) =
            io::pipe().map_err(|error| Error::system("cannot make a pipe", error))?;
        Ok((Self(ours.into()), theirs.into()))
    }

    /// Takes over the reading end from an earlier version.
    pub(super) fn kept(pipe: Descriptor) -> Self {
        Self(pipe.into())
    }

    /// Registers the reading end.
    pub(super) fn register(self, rt: &Rt) -> io::Result<NewlineInbox> {
        rt.register(self.0).map(NewlineInbox)
    }
}

/// The reading end of the pipe of a process that runs.
#[derive(Debug)]
pub(super) struct NewlineInbox(Io);

impl NewlineInbox {
    /// Returns the reading end for the next version of the program.
    pub(super) fn keep(&self) -> Result<kept::ReadinessSignal<Descriptor>, Error> {
        Ok(kept::ReadinessSignal::Newline(duplicate(&self.0)?))
    }

    /// Waits for the newline. A worker that closes its end without a newline can never become
    /// ready. Neither can one that writes something else there, such as its log.
    pub(super) async fn wait(&self) -> Result<WorkerEvent, Error> {
        let failed = |error| Error::system("its readiness descriptor", error);
        let pipe = &self.0;
        let mut seen = 0;
        while seen < MOST {
            let mut bytes = [0; 256];
            let reading =
                pipe.run(Direction::Read, |fd| Ok((read(fd.as_fd(), &mut bytes)?, Progress::More)));
            let count = reading.await.map_err(failed)?;
            if bytes[..count].contains(&b'\n') {
                return Ok(WorkerEvent::Ready);
            }
            if count == 0 {
                return Ok(WorkerEvent::Closed("its readiness descriptor without a newline"));
            }
            seen += count;
        }
        Ok(WorkerEvent::Violation(format!(
            "wrote {seen} bytes without a newline to its readiness descriptor"
        )))
    }
}
