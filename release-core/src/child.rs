//! A child process, watched and signalled through its pidfd.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::net::{Read, Stream};
use crate::rt::{Direction, Io, Progress, Rt};
use crate::supervise::Exit;
use crate::sys::claimed::Claimed;
use crate::sys::spawn::{REPORT, SpawnError};
use crate::sys::{pidfd, spawn};

/// How long a new process may take from its fork to its program.
const EXEC_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Child {
    pid: Claimed,
    io: Io,
}

impl Child {
    /// A process that runs its program; one that cannot is killed and reaped.
    pub(crate) async fn launched(rt: &Rt, started: spawn::Child) -> Result<Self, SpawnError> {
        let spawn::Child { pid, pidfd, report } = started;
        let reserve = pidfd.try_clone();
        let child = match rt.register(pidfd) {
            Ok(io) => Self { pid, io },
            Err(error) => {
                if let Ok(pidfd) = reserve {
                    let _ = pidfd::send_signal(&pidfd, Signal::SIGKILL);
                    let _ = pidfd::wait(&pidfd);
                }
                return Err(SpawnError::Here("watching the new process", error));
            }
        };
        drop(reserve);
        let Err(failure) = runs_its_program(rt, report).await else { return Ok(child) };
        let _ = child.signal(Signal::SIGKILL);
        let _ = child.exit().await;
        Err(failure)
    }

    /// A child of an earlier image of this process.
    ///
    /// # Errors
    ///
    /// When there is none of this number: it has ended, and was reaped.
    pub(crate) fn kept(rt: &Rt, pid: i32) -> io::Result<Self> {
        let pidfd = pidfd::pidfd_open(pid)?;
        pidfd::has_ended(&pidfd)?;
        Ok(Self { pid: Claimed::new(Pid::from_raw(pid)), io: rt.register(pidfd)? })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid.pid()
    }

    /// Waits for the process to end and reaps it, and kills what is left of the process group that
    /// it led. Dropping the future loses nothing.
    pub(crate) async fn exit(&self) -> io::Result<Exit> {
        self.io
            .run(Direction::Read, |fd| {
                if pidfd::has_ended(&fd)? {
                    // Nobody else can have the number until it is reaped.
                    let _ = killpg(self.pid(), Signal::SIGKILL);
                }
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

async fn runs_its_program(rt: &Rt, report: OwnedFd) -> Result<(), SpawnError> {
    let failed = |error| SpawnError::Here("reading the new process's report", error);
    let report = Stream::new(rt, report).map_err(failed)?;
    match report.read(REPORT, Some(EXEC_TIME)).await.map_err(failed)? {
        Read::Data(report) => {
            let report = report.try_into().unwrap_or_default();
            Err(SpawnError::There(spawn::decode(report)))
        }
        Read::Eof(_) => Ok(()),
        Read::TimedOut(_) => Err(SpawnError::Stuck),
    }
}
