//! A listening control socket: its access check, and its connections.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{AbortRegistration, Abortable};
use nix::unistd::geteuid;

use super::ControlSocket;
use super::connection::Connection;
use super::handover::FrozenConnection;
use super::seats::{Asking, Seat, Seats};
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::{Codec, Refused, Request, Text};
use crate::log_throttle::LogThrottle;
use crate::net::{Credentials, FileIdentity, Passive, Socket, Unix};
use crate::rt::Rt;
use crate::sys::rights::discard;

/// A listening control socket. Dropping it removes the socket file, if it is still the socket's own.
#[derive(Debug)]
pub struct BoundControlSocket<C = Text> {
    socket: Option<OwnedFd>,
    /// Identity of the file, which changes when the file is created again.
    pub(super) file: Arc<Mutex<FileIdentity>>,
    pub(super) settings: ControlSocket<C>,
    pub(super) seats: Arc<Seats>,
    /// Connections of an earlier image of this process.
    pub(super) kept: Vec<FrozenConnection>,
}

impl<C> Drop for BoundControlSocket<C> {
    fn drop(&mut self) {
        let path = &self.settings.path;
        if self.seats.is_frozen() {
            return;
        }
        let own = *self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if FileIdentity::of(path).is_ok_and(|file| file == own) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<C> BoundControlSocket<C> {
    pub(super) fn new(socket: OwnedFd, file: FileIdentity, settings: ControlSocket<C>) -> Self {
        let (seats, kept) = (Arc::default(), Vec::new());
        let file = Arc::new(Mutex::new(file));
        Self { socket: Some(socket), file, settings, seats, kept }
    }

    /// Answers requests, one after the other on each connection, until the future is dropped.
    ///
    /// A refusal or panic of the handler, and a request that does not decode, end the connection: plain
    /// frames have no error answer.
    ///
    /// # Errors
    ///
    /// Returns only errors that end every accept on the socket.
    #[doc(alias = "control_socket")]
    pub async fn serve<R, H, F>(self, rt: &Rt, handler: H) -> io::Result<()>
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        self.serve_asking(rt, move |_, peer, request| handler(peer, request)).await
    }

    /// [`serve`](Self::serve), with a handler that knows which request it answers.
    pub(crate) async fn serve_asking<R, H, F>(mut self, rt: &Rt, handler: H) -> io::Result<()>
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(Asking, Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        let mut listener = Socket::<Passive, Unix>::watch(rt, socket)?;
        let handler = Arc::new(handler);
        for kept in std::mem::take(&mut self.kept) {
            let (asked, waits, credentials) = (kept.asked, kept.waits, kept.credentials());
            // Fewer may be admitted than before.
            if !self.admits(credentials.uid) {
                continue;
            }
            match Link::thaw(rt, kept.link) {
                Ok(link) => {
                    let seat = self.seats.keep(credentials.uid, asked, waits, rt.now());
                    self.connect(rt, link, seat, credentials, &handler);
                }
                Err(error) => {
                    tracing::warn!(reason = error.report(), "a control connection was not kept");
                }
            }
        }
        let mut refusals = LogThrottle::default();
        loop {
            let socket = self.seats.accept(&mut listener).await?;
            let Ok(credentials) = Credentials::of_peer(&socket) else {
                continue;
            };
            if !self.admits(credentials.uid) {
                discard(socket.as_fd());
                if let Some(unsaid) = refusals.now(rt.now()) {
                    let Credentials { uid, pid, .. } = credentials;
                    tracing::warn!(uid, pid, unsaid, "a control connection was refused");
                }
                continue;
            }
            let most = self.settings.connections;
            let Some(seat) = self.seats.wait_for_one(credentials.uid, most, rt).await else {
                discard(socket.as_fd());
                continue;
            };
            if let Ok(link) = Link::new(rt, socket, Mode::PlainServer, self.settings.limits) {
                self.connect(rt, link, seat, credentials, &handler);
            }
        }
    }

    fn connect<R, H, F>(
        &self,
        rt: &Rt,
        link: Link,
        (seat, registration): (Seat, AbortRegistration),
        credentials: Credentials,
        handler: &Arc<H>,
    ) where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(Asking, Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        link.set_send_limit(self.settings.answer_limit());
        let link = Arc::new(link);
        seat.connected(&link, credentials);
        let connection = Connection {
            rt: rt.clone(),
            server: Server::over(link, self.settings.codec.clone()),
            codec: self.settings.codec.clone(),
            seat,
            credentials,
            idle_time: self.settings.idle_time,
        };
        let serving = connection.serve(Arc::clone(handler));
        rt.spawn(Abortable::new(serving, registration)).detach();
    }

    /// Checks the peer's user: the second line of defence beside the mode of the socket file.
    fn admits(&self, uid: u32) -> bool {
        uid == 0
            || uid == geteuid().as_raw()
            || self.settings.owner.is_some_and(|(owner, _)| owner == uid)
            || self.settings.users.contains(&uid)
    }
}
