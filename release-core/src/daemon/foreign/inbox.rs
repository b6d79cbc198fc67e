//! A socket that a program writes to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::rights::{Arrived, discard, receive};

/// One at which descriptors that come along hold nobody up, also those that were not received.
#[derive(Debug)]
pub(super) struct Inbox(Io);

impl Inbox {
    pub(super) fn new(rt: &Rt, socket: OwnedFd) -> io::Result<Self> {
        rt.register(socket).map(Self)
    }

    /// Waits for what comes next. A dropped call has received nothing.
    pub(super) async fn receive(&self, bytes: &mut [u8]) -> io::Result<Arrived> {
        let received =
            self.0.run(Direction::Read, |fd| Ok((receive(fd.as_fd(), bytes)?, Progress::More)));
        received.await
    }

    /// What is there already.
    pub(super) fn try_receive(&self, bytes: &mut [u8]) -> io::Result<Arrived> {
        receive(self.0.as_fd(), bytes)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        discard(self.0.as_fd());
    }
}
