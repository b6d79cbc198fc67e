//! The receiving end of a socket to which workers write, and the check of the sender.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures_channel::oneshot;
use nix::unistd::{Pid, Uid, getpgid};

use crate::rt::{Direction, Io, Progress};
use crate::sys::rights::{Arrived, discard, receive};
use crate::sys::untrusted::close_all;

/// A socket whose messages may carry descriptors. These are closed in the background, so that a
/// slow close delays only further messages of the same socket.
#[derive(Debug)]
pub(super) struct ReadinessSocket {
    io: Arc<Io>,
    unclosed: Option<oneshot::Receiver<()>>,
}

impl ReadinessSocket {
    pub(super) fn new(io: Arc<Io>) -> Self {
        Self { io, unclosed: None }
    }

    /// Waits for the next message and closes its descriptors.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub(super) async fn receive(&mut self, bytes: &mut [u8]) -> io::Result<Arrived> {
        if let Some(unclosed) = &mut self.unclosed {
            let _ = unclosed.await;
            self.unclosed = None;
        }
        let received =
            self.io.run(Direction::Read, |fd| Ok((receive(fd.as_fd(), bytes)?, Progress::More)));
        let received = received.await;
        received.map(|arrived| self.close(arrived))
    }

    /// Returns a message that has already arrived.
    pub(super) fn try_receive(&mut self, bytes: &mut [u8]) -> io::Result<Arrived> {
        let is_closed = |unclosed: &mut oneshot::Receiver<()>| unclosed.try_recv() != Ok(None);
        if !self.unclosed.as_mut().is_none_or(is_closed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        receive(self.io.as_fd(), bytes).map(|arrived| self.close(arrived))
    }

    fn close(&mut self, mut arrived: Arrived) -> Arrived {
        let descriptors = mem::take(&mut arrived.descriptors);
        self.unclosed = (!descriptors.is_empty()).then(|| close_all(descriptors));
        arrived
    }
}

impl Drop for ReadinessSocket {
    fn drop(&mut self) {
        discard(self.io.as_fd());
    }
}

/// The processes that may report the readiness of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct AllowedSender {
    pub(super) uid: Uid,
    pub(super) worker: Pid,
}

impl AllowedSender {
    /// Returns whether the sender is the worker, or a process of its group, and runs as its user.
    pub(super) fn allows(&self, uid: u32, pid: i32) -> bool {
        let pid = Pid::from_raw(pid);
        uid == self.uid.as_raw()
            && pid.as_raw() > 0
            && (pid == self.worker || getpgid(Some(pid)) == Ok(self.worker))
    }
}
