//! Transfers between the socket and the state, under the lock.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;

use super::Link;
use super::socket::{Received, receive, transmit};
use super::state::{LinkState, Mode};
use crate::ipc::Ended;
use crate::rt::Direction;

const IN_A_FRAME: Ended = Ended::Violation("descriptors in the middle of a frame");

/// Time until the next attempt to send descriptors that the kernel did not accept.
const CROWDED_TIME: Duration = Duration::from_millis(10);

/// Returns true if too many descriptors of this user are in transit, including other processes.
/// Their receivers must read first, and there is no event for that.
fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
}

impl Link {
    /// Reads once. Is ready if bytes have arrived or the connection has ended.
    pub(super) fn poll_receive(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        let polled = if state.rings.is_read() {
            self.poll_ring(state, cx)
        } else {
            self.poll_socket(state, cx)
        };
        if polled.is_pending() && state.partial_since.is_none() && state.inbox.is_partial() {
            state.partial_since = Some(self.rt.now());
            // The background task checks the deadline for all readers.
            state.wake_background();
        }
        polled
    }

    fn poll_socket(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        // Most polls find that nothing has come, and need no space.
        let (reader, inbox) = (state.reader, &mut state.inbox);
        let polled = self.readable.poll(cx, reader, |cx| {
            self.io
                .poll(cx, Direction::Read, |fd| receive(fd, inbox.space(), self.limits.arriving()))
        });
        polled.map(|received| self.on_received(state, received))
    }

    /// Reads once without waiting.
    pub(super) fn receive_now(&self, state: &mut LinkState) -> io::Result<Received> {
        let space = state.inbox.space();
        if state.rings.is_read() {
            return state.rings.receive(space);
        }
        receive(self.io.as_fd(), space, self.limits.arriving()).map(|(received, _)| received)
    }

    pub(super) fn on_received(&self, state: &mut LinkState, received: io::Result<Received>) {
        match received {
            Ok(Received::Bytes(count)) => state.inbox.received(count),
            Ok(Received::End) if state.inbox.is_partial() => {
                self.end_locked(state, Ended::Truncated);
            }
            Ok(Received::End) => self.end_locked(state, Ended::Closed),
            Ok(Received::Rights(count, descriptors)) => {
                match state.inbox.received_with_descriptors(count) {
                    Some(frames) => state.arrivals.add(frames, descriptors),
                    None => self.end_locked(state, IN_A_FRAME),
                }
            }
            Ok(Received::Refused(why)) => self.end_locked(state, why),
            Err(error) => self.end_locked(state, error.into()),
        }
    }

    /// Sends queued frames until the socket is full. The background task sends the rest.
    pub(crate) fn flush_now(&self) {
        self.with(|state| self.flush(state));
    }

    pub(super) fn flush(&self, state: &mut LinkState) {
        // The background task already waits until the socket has room.
        if state.unsent_since.is_some() || state.is_frozen() {
            return;
        }
        while self.send_by_ring(state) {
            match transmit(self.io.as_fd(), state.outbox.next()) {
                Ok((count, _)) => state.outbox.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_crowded(&error) => {
                    state.unsent_since = Some(self.rt.now());
                    return state.wake_background();
                }
                Err(error) => return self.write_failed(state, error),
            }
        }
    }

    /// Sends queued frames through the ring, as far as that is their way. Returns true if others
    /// are left, whose way is the socket.
    #[inline]
    fn send_by_ring(&self, state: &mut LinkState) -> bool {
        if state.rings.are_written() {
            let before = state.outbox.waiting();
            match state.rings.send(&mut state.outbox) {
                Err(why) => self.end_locked(state, why),
                Ok(()) if state.outbox.waiting() < before => self.wake_for_room(state),
                Ok(()) => {}
            }
        }
        state.ended.is_none() && !state.outbox.is_empty()
    }

    /// Sends queued frames, and waits until the socket has room for the rest.
    pub(super) fn poll_send(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        if state.crowded_until.is_some() || state.is_frozen() {
            return Poll::Pending;
        }
        while self.send_by_ring(state) {
            let next = state.outbox.next();
            match self.io.poll(cx, Direction::Write, |fd| transmit(fd, next)) {
                Poll::Ready(Ok(count)) => {
                    state.outbox.sent(count);
                    state.unsent_since = None;
                    self.wake_for_room(state);
                }
                Poll::Ready(Err(error)) if is_crowded(&error) => {
                    let now = self.rt.now();
                    state.unsent_since.get_or_insert(now);
                    state.crowded_until = Some(now + CROWDED_TIME);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => self.write_failed(state, error),
                Poll::Pending => {
                    state.unsent_since.get_or_insert_with(|| self.rt.now());
                    return Poll::Pending;
                }
            }
        }
        state.unsent_since = None;
        Poll::Ready(())
    }

    /// Handles a write error. If the peer has closed its side, its last answers are still read.
    fn write_failed(&self, state: &mut LinkState, error: io::Error) {
        let unsent = state.outbox.unsent().len();
        state.outbox.sent(unsent);
        let gone =
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        // A client in plain mode sends no answers, and nobody needs the answers to its requests.
        if !gone || self.mode == Mode::PlainServer {
            self.end_locked(state, error.into());
        }
    }
}
