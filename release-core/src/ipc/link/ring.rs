//! The side of the link in the use of rings: it asks for them, and waits for what comes through them.

use std::io;
use std::task::{Context, Poll};

use super::Link;
use super::notes::Note;
use super::rings::{Inward, RingFrame, Signalled, WISH};
use super::socket::{Received, has_arrived};
use super::state::LinkState;
use crate::ipc::wire::body::Draft;
use crate::ipc::wire::header::Header;
use crate::ipc::{Descriptor, Ended, FrameTooLong, SendError};
use crate::rt::Direction;

const UNANNOUNCED: Ended = Ended::Violation("bytes on the socket that its ring does not announce");

impl Link {
    /// Asks the peer for rings, if this side wants them. Must be called before anything is asked.
    pub(crate) fn ask_for_rings(&self) {
        let bytes = self.limits.ring;
        if bytes == 0 {
            return;
        }
        // If the connection has ended, there is nobody to ask.
        let _ = self.queue(Some(Header::Cancel { number: 0 }), |draft| -> Result<(), SendError> {
            draft.bytes.extend_from_slice(WISH);
            draft.bytes.extend_from_slice(&bytes.to_be_bytes());
            Ok(())
        });
        self.flush_now();
    }

    /// Handles a frame about rings.
    pub(super) fn on_ring_frame(
        &self,
        state: &mut LinkState,
        frame: RingFrame,
    ) -> Result<(), Ended> {
        match frame {
            RingFrame::Wish(_) if self.limits.ring == 0 => {
                let cancel = Header::Cancel { number: 0 };
                state.expectations.check(cancel, &self.limits, || self.rt.now())
            }
            RingFrame::Wish(bytes) => {
                let bytes = state.rings.agree(bytes, self.limits.ring)?;
                if let Err(error) = self.offer_ring(state, bytes) {
                    state.wakes.note(Note::NoRing { error, bytes });
                }
                Ok(())
            }
            // Without it, everything goes over the socket.
            RingFrame::Offer if state.arrivals.is_lost() => Ok(()),
            RingFrame::Offer => {
                let note = state.rings.accept(state.arrivals.take())?;
                note.into_iter().for_each(|note| state.wakes.note(note));
                Ok(())
            }
        }
    }

    /// Makes the ring of this side, and gives it to the peer.
    fn offer_ring(&self, state: &mut LinkState, bytes: u32) -> io::Result<()> {
        let (inward, descriptors) = Inward::make(bytes, &self.rt, self.limits)?;
        let offer = |draft: &mut Draft<'_>| -> Result<(), FrameTooLong> {
            draft.descriptors = descriptors.into_iter().map(Descriptor::from).collect();
            Ok(())
        };
        self.push(state, Some(Header::Ring), offer).map_err(io::Error::other)?;
        state.rings.offered(inward);
        Ok(())
    }

    /// Reads the ring once, or sleeps until it has bytes or the peer has gone.
    pub(super) fn poll_ring(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        match state.rings.receive(state.inbox.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => {
                self.on_received(state, received);
                return Poll::Ready(());
            }
        }
        let heard = match state.rings.poll_bell(cx, state.reader) {
            Poll::Ready(Ok(Signalled::Bytes)) => Ok(()),
            Poll::Ready(Ok(Signalled::Nothing)) => {
                state.expectations.needless_signal(self.rt.now())
            }
            Poll::Ready(Err(why)) => Err(why),
            Poll::Pending => return self.poll_end(state, cx),
        };
        if let Err(why) = heard {
            self.end_locked(state, why);
        }
        Poll::Ready(())
    }

    /// Watches the socket while frames come through the ring.
    fn poll_end(&self, state: &mut LinkState, cx: &mut Context<'_>) -> Poll<()> {
        // The ring was empty a moment ago: nothing in it announces what the socket has had.
        if state.rings.holds_other_bytes() && state.rings.is_empty() {
            self.end_locked(state, UNANNOUNCED);
            return Poll::Ready(());
        }
        let polled = self
            .readable
            .poll(cx, state.reader, |cx| self.io.poll(cx, Direction::Read, has_arrived));
        polled.map(|has_arrived| match has_arrived {
            // What is in the ring was sent before what is on the socket, and before its end.
            _ if !state.rings.is_empty() => {}
            Ok(true) => self.end_locked(state, UNANNOUNCED),
            Ok(false) => self.on_received(state, Ok(Received::End)),
            Err(error) => self.end_locked(state, error.into()),
        })
    }
}
