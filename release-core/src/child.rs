//! A child process, watched and signalled through its pidfd.

use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::rt::{Direction, Io, Progress, Rt};
use crate::supervise::Exit;
use crate::sys::{pidfd, spawn};

#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    io: Io,
}

impl Child {
    pub(crate) fn watch(rt: &Rt, started: spawn::Child) -> io::Result<Self> {
        Ok(Self { pid: started.pid, io: rt.register(started.pidfd)? })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the process to end and reaps it. Dropping the future loses nothing.
    pub(crate) async fn exit(&self) -> io::Result<Exit> {
        self.io
            .run(Direction::Read, |fd| {
                pidfd::try_wait(&fd)?
                    .map(|status| (status, Progress::More))
                    .ok_or_else(|| io::ErrorKind::WouldBlock.into())
            })
            .await
    }

    /// Signals this very process; one that has ended is not an error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd::send_signal(&self.io.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent,
        }
    }
}
