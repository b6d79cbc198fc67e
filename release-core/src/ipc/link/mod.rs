//! A framed socket that many tasks share. It routes frames between callers and the background task.
//!
//! There is no reader task between the socket and a caller. A single caller reads the socket
//! itself, so that its answer costs one wake-up. If several callers wait, the background task of
//! the connection reads for all of them. Requests of the peer are always handled by the background
//! task: a caller that finds one stops reading. All frames are split and routed under one lock, in
//! the order of the stream. A dropped future leaves no trace in it.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::UnixAddr;

pub(crate) use self::background::BackgroundTurn;
pub(crate) use self::caller::PendingCall;
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
mod notes;
mod notices;
mod pause;
mod readable;
mod ring;
mod rings;
mod room;
mod socket;
mod spin;
mod spinning;
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

/// Tells the kernel to refuse descriptors if none are allowed.
fn refuse_unagreed(socket: &OwnedFd, limits: Limits) {
    if limits.arriving() == 0 {
        rights::refuse(socket.as_fd());
    }
}

fn is_unix(socket: &OwnedFd) -> bool {
    nix::sys::socket::getsockname::<UnixAddr>(socket.as_raw_fd()).is_ok()
}

/// Ends a link when its background task is dropped, also if it never ran or has panicked. Otherwise
/// callers would wait for answers that no task reads.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Arc<Link>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(Ended::Here);
    }
}

impl Link {
    pub(crate) fn new(rt: &Rt, socket: OwnedFd, mode: Mode, limits: Limits) -> io::Result<Self> {
        // Frames in plain mode cannot announce descriptors.
        let limits = if mode == Mode::Calls { limits } else { limits.without_descriptors() };
        // The memory of a ring needs a socket that carries descriptors.
        let has_ring = mode == Mode::Calls && limits.ring > 0 && is_unix(&socket);
        let limits = if has_ring { limits } else { limits.without_ring() };
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

    /// Returns whether descriptors wait for a peer that does not read.
    pub(crate) fn has_unsent_descriptors(&self) -> bool {
        self.lock().outbox.has_descriptors()
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        // A decoder that panicked has changed nothing, because frames are consumed afterwards.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state under the lock. Wakes tasks and logs after it is released.
    fn with<T>(&self, change: impl FnOnce(&mut LinkState) -> T) -> T {
        let mut state = self.lock();
        let done = change(&mut state);
        if !state.wakes.is_empty() {
            let wakes = mem::take(&mut state.wakes);
            drop(state);
            wakes.wake();
        }
        done
    }

    /// Ends the connection for both sides immediately. If nothing is wrong, what is queued is sent
    /// before, as far as the socket has room.
    pub(crate) fn end(&self, why: Ended) {
        self.with(|state| {
            if matches!(why, Ended::Here) && state.ended.is_none() {
                self.flush(state);
            }
            self.end_locked(state, why);
        });
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended.clone()
    }

    /// Returns true if the peer answers requests.
    pub(crate) fn can_ask(&self) -> bool {
        self.mode != Mode::PlainServer
    }

    /// Sets another limit for sent frames than for received frames.
    pub(crate) fn set_send_limit(&self, bytes: u32) {
        self.lock().outbox.set_limit(bytes);
    }

    /// Queues a frame that is not a request. The next flush sends it. Returns true if the queue for
    /// the peer is full now.
    pub(crate) fn queue<E: From<Ended> + From<FrameTooLong>>(
        &self,
        header: Option<Header>,
        encode: impl FnOnce(&mut Draft<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone().into());
        }
        self.push(&mut state, header, encode)?;
        if header == Some(Header::Heartbeat) {
            state.expectations.heartbeat_sent();
        }
        Ok(self.is_full(&state))
    }

    /// Appends a frame. Returns the number of its descriptors.
    fn push<E: From<FrameTooLong>>(
        &self,
        state: &mut LinkState,
        header: Option<Header>,
        encode: impl FnOnce(&mut Draft<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let descriptors = state.outbox.push(|payload| -> Result<_, E> {
            let start = payload.len();
            if let Some(header) = header {
                header.write(payload);
            }
            let mut draft = Draft::new(payload, self.room_of(header));
            encode(&mut draft)?;
            let descriptors = draft.descriptors;
            if !descriptors.is_empty() {
                header::add_descriptors(payload, start, descriptors.len());
            }
            Ok(descriptors)
        })?;
        let count = descriptors.len();
        state.outbox.attach(descriptors);
        Ok(count)
    }

    /// Returns the maximum number of descriptors of a sent frame.
    fn room_of(&self, header: Option<Header>) -> usize {
        match header {
            Some(Header::Service { .. } | Header::ServiceAnswer { .. }) => 1,
            _ => self.limits.descriptors,
        }
    }

    /// Replaces the standard output and error of the peer's process with these files. Does nothing
    /// in plain mode.
    pub(crate) fn send_outputs(&self, files: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        if self.mode == Mode::Calls {
            let [output, error] = files.map(|file| file.try_clone_to_owned());
            let files = vec![output?.into(), error?.into()];
            // If the connection has ended, the worker will end soon.
            let _ = self.queue(Some(Header::Outputs), |draft| -> Result<(), SendError> {
                draft.descriptors = files;
                Ok(())
            });
            self.flush_now();
        }
        Ok(())
    }

    /// Returns the header in call mode, and `None` in plain mode.
    fn in_calls(&self, header: Header) -> Option<Header> {
        (self.mode == Mode::Calls).then_some(header)
    }

    /// Returns the header of a message without an answer, if frames have headers.
    pub(crate) fn notice(&self) -> Option<Header> {
        self.in_calls(Header::Notice)
    }

    /// Returns true if the queue for the peer is full.
    pub(crate) fn is_choked(&self) -> bool {
        self.is_full(&self.lock())
    }

    #[inline]
    fn is_full(&self, state: &LinkState) -> bool {
        state.outbox.waiting() > self.limits.unsent || state.is_frozen()
    }

    fn end_locked(&self, state: &mut LinkState, why: Ended) {
        state.end(why);
        state.wakes.add(self.readable.take());
        // The copy of a frozen state lives on.
        if !state.is_frozen() {
            socket::close(self.io.as_fd());
        }
    }

    /// Wakes as many callers as there is room for in the queue.
    #[inline]
    fn wake_for_room(&self, state: &mut LinkState) {
        // Almost always, none waits.
        if !state.room.is_empty() && !self.is_full(state) {
            self.wake_waiting(state);
        }
    }

    #[cold]
    fn wake_waiting(&self, state: &mut LinkState) {
        let room = state.answers.room(self.limits.unsent);
        let descriptors = self.limits.descriptors.saturating_sub(state.answers.descriptors());
        state.room.wake(room, descriptors, &mut state.wakes);
    }
}
