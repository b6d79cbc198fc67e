//! `AcceptGate`: the listening socket of a control socket, which an upgrade stops and takes over.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::future::{Either, select};

use crate::ipc::Descriptor;
use crate::net::{Passive, Socket, Unix};
use crate::sys::fds::duplicate_from;
use crate::sys::socket::accept;
use crate::{Error, ErrorKind};

/// Lets the accepting task pass, except in a pause. After the pause, or in the next process image, the
/// task continues with the next connection in the kernel's queue.
#[derive(Debug, Default)]
pub(super) struct AcceptGate {
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    is_handed_over: bool,
    /// Waker of the accepting task.
    accepting: Option<Waker>,
    /// A duplicate of the listening socket, from the accepting task when it has stopped.
    listener: Option<io::Result<OwnedFd>>,
    /// Waker of the task that waits until the accepting task has stopped.
    waiter: Option<Waker>,
    /// The socket that replaces the present one.
    successor: Option<OwnedFd>,
}

impl AcceptGate {
    /// Accepts the next connection, outside of a pause.
    pub(super) async fn accept(&self, listener: &mut Socket<Passive, Unix>) -> io::Result<OwnedFd> {
        loop {
            poll_fn(|cx| self.poll_open(cx, listener)).await;
            let successor = self.lock().successor.take();
            if let Some(socket) = successor {
                // Connections that were in the queue when the file was removed are accepted first.
                if let Ok(waiting) = accept(&listener.as_fd()) {
                    self.listen_on(socket);
                    return Ok(waiting);
                }
                listener.replace(socket)?;
            }
            let interrupted = poll_fn(|cx| self.poll_interrupted(cx));
            match select(interrupted, pin!(listener.accept_descriptor())).await {
                Either::Left(_) => {}
                Either::Right((accepted, _)) => return accepted,
            }
        }
    }

    fn poll_open(&self, cx: &Context<'_>, listener: &Socket<Passive, Unix>) -> Poll<()> {
        let mut state = self.lock();
        if !state.is_closed {
            return Poll::Ready(());
        }
        state.accepting = Some(cx.waker().clone());
        state.listener.get_or_insert_with(|| duplicate_from(listener.as_fd(), 3));
        let waiter = state.waiter.take();
        drop(state);
        waiter.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    fn poll_interrupted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.is_closed || state.successor.is_some() {
            return Poll::Ready(());
        }
        state.accepting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Accepts on another socket from now on.
    pub(super) fn listen_on(&self, socket: OwnedFd) {
        self.change(|state| state.successor = Some(socket));
    }

    pub(super) fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    pub(super) fn open(&self) {
        self.change(|state| {
            (state.is_closed, state.is_handed_over) = (false, false);
            (state.listener, state.waiter) = (None, None);
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Waits until the accepting task has stopped.
    pub(super) fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.waiter = Some(cx.waker().clone());
        if state.listener.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns a duplicate of the listening socket for the next process image, once the accepting task
    /// has stopped.
    pub(super) fn hand_over(&self) -> Result<Descriptor, Error> {
        let mut state = self.lock();
        let listener = mem::take(&mut state.listener).ok_or_else(|| {
            Error::new(ErrorKind::Change, "it is still about to accept a connection")
        })?;
        let listener = listener.map_err(|error| Error::system("cannot duplicate it", error))?;
        state.is_handed_over = true;
        Ok(listener.into())
    }

    /// Returns whether another image of this process has the socket.
    pub(super) fn is_handed_over(&self) -> bool {
        self.lock().is_handed_over
    }

    /// Changes the state, and wakes the accepting task to see it.
    fn change(&self, change: impl FnOnce(&mut GateState)) {
        let mut state = self.lock();
        change(&mut state);
        let accepting = state.accepting.take();
        drop(state);
        accepting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
