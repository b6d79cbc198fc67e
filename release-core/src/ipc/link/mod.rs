//! A framed socket that many tasks share: who reads, who writes, whose answer came.
//!
//! There is no reader task between the socket and a caller. A caller that is alone reads the socket
//! itself, so its answer costs one wake-up; when several wait, the connection's background task
//! reads for all of them. Requests of the peer are always the background task's: a caller that
//! meets one steps back. All frames are cut and told apart under one lock, in the order of the
//! stream; a future that is dropped leaves no trace in it.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use self::caller::WaitingCaller;
use self::readable::Readable;
use self::state::LinkState;
pub(crate) use self::state::{Incoming, Mode};
use crate::ipc::limits::Limits;
use crate::ipc::wire::body::Draft;
use crate::ipc::wire::header::{self, Header};
use crate::ipc::{Ended, FrameTooLong, SendError};
use crate::rt::{Io, Rt};
use crate::sys::rights;

pub(crate) mod answers;
mod arrivals;
mod background;
mod caller;
pub(crate) mod deadline;
mod expectations;
pub(crate) mod frozen;
mod pause;
mod readable;
mod room;
mod socket;
mod spin;
mod state;
#[cfg(test)]
mod tests;
mod transfer;

#[derive(Debug)]
pub(crate) struct Link {
    io: Io,
    mode: Mode,
    limits: Limits,
    rt: Rt,
    readable: Readable,
    state: Mutex<LinkState>,
}

/// Has the kernel refuse descriptors where none may come.
fn refuse_unagreed(socket: &OwnedFd, limits: Limits) {
    if limits.arriving() == 0 {
        rights::refuse(socket.as_fd());
    }
}

/// Ends a link when its background task goes, even one that never ran or that panicked: whoever
/// still asks must not wait for answers that nobody reads any more.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Arc<Link>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(Ended::Here);
    }
}

impl Link {
    pub(crate) fn new(rt: &Rt, socket: OwnedFd, mode: Mode, limits: Limits) -> io::Result<Self> {
        // A plain frame cannot say how many it has.
        let limits = if mode == Mode::Calls { limits } else { limits.with_descriptors(0) };
        refuse_unagreed(&socket, limits);
        Ok(Self {
            io: rt.register(socket)?,
            mode,
            limits,
            rt: rt.clone(),
            readable: Readable::default(),
            state: Mutex::new(LinkState::new(limits)),
        })
    }

    pub(crate) fn rt(&self) -> &Rt {
        &self.rt
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        // A decoder that panicked has changed nothing: frames are consumed after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something under the lock, and wakes whom it concerns afterwards.
    fn with<T>(&self, change: impl FnOnce(&mut LinkState) -> T) -> T {
        let mut state = self.lock();
        let done = change(&mut state);
        let wakes = mem::take(&mut state.wakes);
        drop(state);
        wakes.wake();
        done
    }

    /// Ends the connection for both sides, at once.
    pub(crate) fn end(&self, why: Ended) {
        self.with(|state| self.end_locked(state, why));
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// Whether the peer answers requests at all.
    pub(crate) fn can_ask(&self) -> bool {
        self.mode != Mode::PlainServer
    }

    /// Sends longer frames than it accepts.
    pub(crate) fn set_send_limit(&self, bytes: u32) {
        self.lock().outbox.set_limit(bytes);
    }

    /// Queues a frame that is not a request; it leaves with the next flush.
    pub(crate) fn queue<E: From<Ended> + From<FrameTooLong>>(
        &self,
        header: Option<Header>,
        encode: impl FnOnce(&mut Draft<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone().into());
        }
        self.push(&mut state, header, encode)?;
        if header == Some(Header::Heartbeat) {
            state.expectations.heartbeat_sent();
        }
        Ok(())
    }

    /// Appends a frame, and says how many descriptors it has.
    fn push<E: From<FrameTooLong>>(
        &self,
        state: &mut LinkState,
        header: Option<Header>,
        encode: impl FnOnce(&mut Draft<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut descriptors = Vec::new();
        state.outbox.push(|payload| -> Result<(), E> {
            let start = payload.len();
            if let Some(header) = header {
                header.write(payload);
            }
            let mut draft = Draft::new(payload, self.limits.descriptors);
            encode(&mut draft)?;
            descriptors = draft.descriptors;
            if !descriptors.is_empty() {
                header::add_descriptors(payload, start, descriptors.len());
            }
            Ok(())
        })?;
        let count = descriptors.len();
        state.outbox.attach(descriptors);
        Ok(count)
    }

    /// Sends these files to be the standard output and error of the peer's process; a peer in plain
    /// mode has its own for as long as it lives.
    pub(crate) fn send_outputs(&self, files: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        if self.mode == Mode::Calls {
            let [output, error] = files.map(|file| file.try_clone_to_owned());
            let files = vec![output?, error?];
            // A connection that has ended is that of a worker that soon has.
            let _ = self.queue(Some(Header::Outputs), |draft| -> Result<(), SendError> {
                draft.descriptors = files;
                Ok(())
            });
            self.flush_now();
        }
        Ok(())
    }

    /// A header where frames have any.
    fn in_calls(&self, header: Header) -> Option<Header> {
        (self.mode == Mode::Calls).then_some(header)
    }

    /// The header of a message that wants no answer, where frames have headers.
    pub(crate) fn notice(&self) -> Option<Header> {
        self.in_calls(Header::Notice)
    }

    /// Whether so much waits for the peer that nothing more should be queued.
    pub(crate) fn is_choked(&self) -> bool {
        self.is_full(&self.lock())
    }

    fn is_full(&self, state: &LinkState) -> bool {
        state.outbox.unsent().len() > self.limits.unsent || state.is_frozen()
    }

    fn end_locked(&self, state: &mut LinkState, why: Ended) {
        state.end(why);
        state.wakes.callers.extend(self.readable.take());
        // A frozen one has a copy of its state, which lives on.
        if !state.is_frozen() {
            socket::close(self.io.as_fd());
        }
    }

    /// Wakes as many callers as there is room for.
    fn wake_for_room(&self, state: &mut LinkState) {
        if state.room.is_empty() || self.is_full(state) {
            return;
        }
        let room = state.answers.room(self.limits.unsent);
        let descriptors = self.limits.descriptors.saturating_sub(state.answers.descriptors());
        state.room.wake(room, descriptors, &mut state.wakes);
    }
}
