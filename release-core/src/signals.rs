//! Signals as a stream of values.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};

use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::signal::Caught;

/// The signals a process listens to. Equal ones that arrive together count once.
#[derive(Debug)]
pub(crate) struct Signals {
    io: Io,
    caught: Caught,
}

impl Signals {
    pub(crate) fn new(rt: &Rt, signals: &[Signal]) -> io::Result<Self> {
        Self::watch(rt, Caught::new(signals)?)
    }

    /// Signals that are caught already, among them those that came before there was a runtime.
    pub(crate) fn watch(rt: &Rt, mut caught: Caught) -> io::Result<Self> {
        let wake = caught.wake.take().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { io: rt.register(wake)?, caught })
    }

    /// The next signal. Dropping the future loses none.
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
