//! Signals as a stream of values.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};

use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::fds::duplicate_from;
use crate::sys::signal::Caught;

/// The signals caught by a process. Equal signals that arrive together count once.
#[derive(Debug)]
pub(crate) struct Signals {
    io: Io,
    caught: Caught,
}

impl Signals {
    pub(crate) fn new(rt: &Rt, signals: &[Signal]) -> io::Result<Self> {
        Self::watch(rt, Caught::new(signals)?)
    }

    /// Watches signals that are caught already, including those from before the runtime existed.
    pub(crate) fn watch(rt: &Rt, mut caught: Caught) -> io::Result<Self> {
        let wake = caught.wake.take().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { io: rt.register(wake)?, caught })
    }

    /// Returns the pending signals, then the destination that later signals are written to.
    ///
    /// Must be called while this thread blocks signals: a handler on another thread writes the
    /// signal's number to the destination, where the next process image finds it.
    pub(crate) fn hand_over(&self) -> io::Result<(Vec<Signal>, OwnedFd)> {
        let wake = duplicate_from(self.io.as_fd(), 3)?;
        let mut bytes = [0; 64];
        while recv(wake.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok_and(|read| read > 0)
        {
        }
        Ok((std::iter::from_fn(|| self.caught.take()).collect(), wake))
    }

    /// Returns the signals that arrived in the previous process image after it had handed over.
    pub(crate) fn late(wake: &OwnedFd) -> Vec<Signal> {
        let mut bytes = [0; 64];
        let read = recv(wake.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        let numbers = bytes[..read].iter().copied();
        numbers.filter_map(|number| Signal::try_from(i32::from(number)).ok()).collect()
    }

    /// Returns the next signal. Dropping the future loses none.
    pub(crate) async fn next(&self) -> io::Result<Signal> {
        loop {
            if let Some(signal) = self.caught.take() {
                return Ok(signal);
            }
            let mut bytes = [0; 64];
            self.io
                .run(Direction::Read, |fd| {
                    let count = recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)?;
                    let all = count < bytes.len();
                    Ok(((), if all { Progress::Drained } else { Progress::More }))
                })
                .await?;
        }
    }
}
