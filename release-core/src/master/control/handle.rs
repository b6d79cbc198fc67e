//! `ControlHandle`: a control socket that answers, as its master sees it.

use std::fs::remove_file;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use super::accept_gate::AcceptGate;
use super::file::SocketFileOptions;
use super::frozen::{FrozenConnection, FrozenControl};
use super::limiter::ConnectionLimiter;
use crate::Error;
use crate::ipc::Descriptor;
use crate::net::FileIdentity;

/// A control socket as its master sees it, which may hand it over.
#[derive(Clone, Debug)]
pub(crate) struct ControlHandle {
    place: SocketFileOptions,
    /// Identity of the file, which changes when the file is created again.
    file: Arc<Mutex<FileIdentity>>,
    pub(super) gate: Arc<AcceptGate>,
    pub(super) limiter: Arc<ConnectionLimiter>,
    /// Whether the log has reported the missing file.
    is_told: Arc<AtomicBool>,
}

impl ControlHandle {
    pub(super) fn new(place: SocketFileOptions, file: FileIdentity, connections: usize) -> Self {
        Self {
            place,
            file: Arc::new(Mutex::new(file)),
            gate: Arc::default(),
            limiter: ConnectionLimiter::new(connections),
            is_told: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Removes the file, if it is still the socket's own and no other process image has the socket.
    pub(super) fn remove_file(&self) {
        let own = *self.lock_file();
        let is_own = || FileIdentity::of(self.path()).is_ok_and(|file| file == own);
        if !self.gate.is_handed_over() && is_own() {
            let _ = remove_file(self.path());
        }
    }

    /// Creates the socket again if its file was removed; connections stay open. A foreign file at the
    /// path stays.
    pub(crate) fn look(&self) {
        let mut file = self.lock_file();
        let path = self.path();
        if FileIdentity::of(path).is_ok_and(|there| there == *file) || self.gate.is_closed() {
            return;
        }
        let made = match self.place.is_missing() {
            true => self.place.make().map_err(|error| error.report()),
            false => Err("something else is there".to_owned()),
        };
        match made {
            Ok((socket, made)) => {
                *file = made;
                self.gate.listen_on(socket);
                self.is_told.store(false, Ordering::Relaxed);
                log_warning!(path = %path.display(), "the control socket was removed: it is there again");
            }
            Err(reason) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    let message = "the control socket was removed: nobody can connect";
                    log_error!(path = %path.display(), reason, "{message}");
                }
            }
        }
    }

    /// Accepts no connection and begins no request from now on. Requests in flight are answered; a
    /// request that waits for the upgrade keeps waiting, and one without an answer for a minute is
    /// cancelled.
    pub(crate) fn pause(&self, now: Instant) {
        self.limiter.pause(now);
        self.gate.close();
    }

    /// Waits until only requests that wait for the upgrade are in flight. One task at a time may wait.
    pub(crate) fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let stopped = self.gate.poll_stopped(cx);
        let at_rest = self.limiter.poll_at_rest(cx);
        if stopped.is_ready() { at_rest } else { Poll::Pending }
    }

    /// Returns the number of connections with requests in flight.
    pub(crate) fn unfinished(&self) -> usize {
        self.limiter.unfinished()
    }

    /// Takes the state out, while the socket is paused and at rest. It stands still then until
    /// [`ControlHandle::resume`], which must be called after an error as well.
    ///
    /// # Errors
    ///
    /// Returns an error if a request is in flight, or no descriptors are left.
    pub(crate) fn freeze(&self) -> Result<FrozenControl, Error> {
        let frozen = self.limiter.freeze().and_then(|connections| {
            let listener = self.gate.hand_over()?;
            Ok(self.frozen(listener, connections))
        });
        frozen.map_err(|error| {
            let message = format!("cannot hand over the control socket {}", self.path().display());
            Error::new(error.kind(), message).caused_by(error)
        })
    }

    /// Returns the state for a trial, without a pause and without the socket itself.
    pub(crate) fn sample(&self) -> Result<FrozenControl, Error> {
        let nothing = std::fs::File::open("/dev/null")
            .map_err(|error| Error::system("cannot open /dev/null", error))?;
        Ok(self.frozen(Descriptor::new(nothing), self.limiter.sample()?))
    }

    fn frozen(&self, listener: Descriptor, connections: Vec<FrozenConnection>) -> FrozenControl {
        let (path, file) = (self.path().as_os_str().to_owned(), (*self.lock_file()).into());
        FrozenControl { path, file, listener, connections }
    }

    /// Continues as if there had been no pause.
    pub(crate) fn resume(&self) {
        self.limiter.resume();
        self.gate.open();
    }

    fn lock_file(&self) -> MutexGuard<'_, FileIdentity> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
