//! Bytes in and out of the socket, under the lock.

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

/// How long to wait before descriptors are sent that the kernel does not take at the moment.
const CROWDED_TIME: Duration = Duration::from_millis(10);

/// Whether too many descriptors of this user are on their way, those of other processes included:
/// their receivers have to read first, and nothing tells when they have.
fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
}

impl Link {
    /// Reads once. Ready means: look again, there are more bytes or the connection has ended.
    pub(super) fn poll_receive(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        let (space, most) = (state.inbox.space(), self.limits.arriving());
        let received = self
            .readable
            .poll(cx, |cx| self.io.poll(cx, Direction::Read, |fd| receive(fd, &mut *space, most)));
        let Poll::Ready(received) = received else {
            if state.partial_since.is_none() && state.inbox.is_partial() {
                state.partial_since = Some(self.rt.now());
                // The background task keeps the time, whoever reads.
                state.wake_background();
            }
            return Poll::Pending;
        };
        self.on_received(state, received);
        Poll::Ready(())
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

    /// Sends what is queued as far as the socket takes it; the background task sends the rest.
    pub(crate) fn flush_now(&self) {
        self.with(|state| self.flush(state));
    }

    pub(super) fn flush(&self, state: &mut LinkState) {
        // What waits already waits for the background task to see room.
        if state.unsent_since.is_some() || state.is_frozen() {
            return;
        }
        while !state.outbox.is_empty() {
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

    /// Sends what is queued, and waits for room for the rest.
    pub(super) fn poll_send(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        if state.crowded_until.is_some() || state.is_frozen() {
            return Poll::Pending;
        }
        while !state.outbox.is_empty() {
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

    /// A peer that no longer reads may have sent its last answers: they are read before the end.
    fn write_failed(&self, state: &mut LinkState, error: io::Error) {
        let unsent = state.outbox.unsent().len();
        state.outbox.sent(unsent);
        let gone =
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        // A peer that only asks sends no answers: what it asked for last is nobody's any more.
        if !gone || self.mode == Mode::PlainServer {
            self.end_locked(state, error.into());
        }
    }
}
