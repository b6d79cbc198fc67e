//! The pause of a control socket: no connection is accepted and no request begun until it continues.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::future::{Either, select};

use super::handover::FrozenConnection;
use super::seats::{Occupant, Seats, Taken};
use crate::ipc::Descriptor;
use crate::ipc::link::Link;
use crate::ipc::link::frozen::Frozen;
use crate::net::{Passive, Socket, Unix};
use crate::sys::fds::duplicate_from;
use crate::sys::socket::accept;
use crate::{Error, ErrorKind};

#[derive(Default)]
pub(super) struct Pause {
    pub(super) is_paused: bool,
    is_frozen: bool,
    /// The task that accepts, to be told of the pause's beginning or end.
    accepting: Option<Waker>,
    /// A duplicate of the listening socket, which the accepting task leaves when it has stopped.
    listener: Option<io::Result<OwnedFd>>,
    /// Waker of the task that waits until all is at rest.
    pub(super) waiter: Option<Waker>,
}

impl Occupant {
    fn link(&self) -> Option<Arc<Link>> {
        self.connected.as_ref()?.link.upgrade()
    }
}

impl Taken {
    fn links(&self) -> Vec<Arc<Link>> {
        self.seats.values().filter_map(Occupant::link).collect()
    }

    /// The open connections, each with its request that waits for the upgrade.
    fn connections(
        &self,
        freeze: impl Fn(&Link, Option<&[u8]>) -> Result<Option<Frozen>, Error>,
    ) -> Result<Vec<FrozenConnection>, Error> {
        let mut connections = Vec::new();
        for occupant in self.seats.values() {
            let Some(connected) = &occupant.connected else { continue };
            let Some(link) = connected.link.upgrade() else { continue };
            let unanswered = (occupant.waits > 0).then_some(&*occupant.request);
            if let Some(link) = freeze(&link, unanswered)? {
                let (asked, waits) = (occupant.asked > 0, unanswered.is_some());
                connections.push(FrozenConnection::new(link, connected.credentials, asked, waits));
            }
        }
        Ok(connections)
    }
}

impl Seats {
    /// The next connection, outside of a pause.
    pub(super) async fn accept(&self, listener: &mut Socket<Passive, Unix>) -> io::Result<OwnedFd> {
        loop {
            poll_fn(|cx| self.poll_unpaused(cx, listener)).await;
            if let Some(socket) = self.successor() {
                // Who was there before it was removed is not turned away.
                if let Ok(waiting) = accept(&listener.as_fd()) {
                    self.listen_on(socket);
                    return Ok(waiting);
                }
                listener.replace(socket)?;
            }
            let paused = poll_fn(|cx| self.poll_paused(cx));
            match select(paused, pin!(listener.accept_descriptor())).await {
                Either::Left(_) => {}
                Either::Right((accepted, _)) => return accepted,
            }
        }
    }

    fn poll_unpaused(&self, cx: &Context<'_>, listener: &Socket<Passive, Unix>) -> Poll<()> {
        let mut taken = self.lock();
        let pause = &mut taken.pause;
        if !pause.is_paused {
            return Poll::Ready(());
        }
        pause.accepting = Some(cx.waker().clone());
        pause.listener.get_or_insert_with(|| duplicate_from(listener.as_fd(), 3));
        let waiter = pause.waiter.take();
        drop(taken);
        waiter.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    fn poll_paused(&self, cx: &Context<'_>) -> Poll<()> {
        let mut taken = self.lock();
        if taken.pause.is_paused || taken.successor.is_some() {
            return Poll::Ready(());
        }
        taken.pause.accepting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Accepts on another socket from now on.
    pub(super) fn listen_on(&self, socket: OwnedFd) {
        let mut taken = self.lock();
        taken.successor = Some(socket);
        let accepting = taken.pause.accepting.take();
        drop(taken);
        accepting.into_iter().for_each(Waker::wake);
    }

    fn successor(&self) -> Option<OwnedFd> {
        self.lock().successor.take()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().pause.is_paused
    }

    pub(super) fn pause(&self, now: Instant) {
        let mut taken = self.lock();
        taken.give_up_stuck(now);
        // Who connects later is paused then.
        taken.pause.is_paused = true;
        let links = taken.links();
        let accepting = taken.pause.accepting.take();
        drop(taken);
        links.iter().for_each(|link| link.pause());
        accepting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = self.lock();
        taken.pause.waiter = Some(cx.waker().clone());
        let mut is_at_rest = |occupant: &Occupant| {
            let link = occupant.link();
            occupant.waits > 0 || link.is_none_or(|link| link.poll_at_rest(cx).is_ready())
        };
        let all = taken.pause.listener.is_some() && taken.seats.values().all(&mut is_at_rest);
        if all { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(super) fn unfinished(&self) -> usize {
        let taken = self.lock();
        let is_busy = |occupant: &&Occupant| {
            occupant.waits == 0 && occupant.link().is_some_and(|link| link.unfinished() > 0)
        };
        taken.seats.values().filter(is_busy).count()
    }

    pub(super) fn freeze(&self) -> Result<(Descriptor, Vec<FrozenConnection>), Error> {
        let mut taken = self.lock();
        let listener = mem::take(&mut taken.pause.listener).ok_or_else(|| {
            Error::new(ErrorKind::Change, "it is still about to accept a connection")
        })?;
        let listener = listener.map_err(|error| Error::system("cannot duplicate it", error))?;
        let connections = taken.connections(|link, unanswered| link.freeze(unanswered))?;
        taken.pause.is_frozen = true;
        Ok((listener.into(), connections))
    }

    /// The connections as they are, for a trial.
    pub(super) fn sample(&self) -> Result<Vec<FrozenConnection>, Error> {
        self.lock().connections(|link, _| link.sample())
    }

    /// Whether another image of this process has the socket.
    pub(super) fn is_frozen(&self) -> bool {
        self.lock().pause.is_frozen
    }

    pub(super) fn resume(&self) {
        let mut taken = self.lock();
        let links = taken.links();
        let accepting = mem::take(&mut taken.pause).accepting;
        drop(taken);
        links.iter().for_each(|link| link.resume());
        accepting.into_iter().for_each(Waker::wake);
    }
}
