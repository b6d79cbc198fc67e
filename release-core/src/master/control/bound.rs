//! `BoundControlSocket`: a listening control socket, and the connections that it accepts.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::Abortable;

use super::connection::ControlConnection;
use super::frozen::{FrozenConnection, FrozenControl, Past};
use super::handle::ControlHandle;
use super::limiter::ControlRequest;
use super::socket::ControlSocket;
use crate::Error;
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::{Codec, Refused, Request, Text};
use crate::log_throttle::LogThrottle;
use crate::net::{Credentials, FileIdentity, Passive, Socket, Unix};
use crate::rt::Rt;
use crate::sys::rights::discard;

/// A listening control socket. Dropping it removes the socket file, if it is still the socket's own.
///
/// # Examples
///
/// ```
/// use release_core::ControlSocket;
///
/// let directory = tempfile::tempdir()?;
/// let bound = ControlSocket::new(directory.path().join("control")).bind()?;
/// # let _ = bound;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BoundControlSocket<C = Text> {
    socket: Option<OwnedFd>,
    served: ControlHandle,
    settings: ControlSocket<C>,
    /// Connections of an earlier image of this process.
    kept: Vec<FrozenConnection>,
    /// The socket of that image at another path, which stays until this one answers.
    former: Option<FrozenControl>,
}

impl<C> Drop for BoundControlSocket<C> {
    fn drop(&mut self) {
        self.served.remove_file();
    }
}

impl<C> ControlSocket<C> {
    /// Binds the socket. Its mode is right from the first moment.
    ///
    /// A stale socket file of a daemon that was killed is replaced. Root creates no socket in a
    /// directory that belongs to another account or that others can write to, unless it is sticky as
    /// `/tmp`: they could replace the socket by their own.
    ///
    /// A [`Master`](crate::Master) creates the file again at the next start of a worker, or reload, if
    /// it was removed.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::AlreadyRunning`] if a process answers on the path, whose socket stays
    /// untouched; [`ErrorKind::Usage`] if the path is taken by another kind of file, too long, or not
    /// safe for root; [`ErrorKind::System`] for errors of bind(2) and related calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ControlSocket, ErrorKind};
    ///
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("control");
    /// let bound = ControlSocket::new(&path).bind()?;
    /// let second = ControlSocket::new(&path).bind();
    /// assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyRunning);
    /// drop(bound);
    /// assert!(!path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`ErrorKind::AlreadyRunning`]: crate::ErrorKind::AlreadyRunning
    /// [`ErrorKind::Usage`]: crate::ErrorKind::Usage
    /// [`ErrorKind::System`]: crate::ErrorKind::System
    pub fn bind(self) -> Result<BoundControlSocket<C>, Error> {
        let (socket, file) = self.file().make()?;
        Ok(BoundControlSocket::new(socket, file, self))
    }

    /// Takes the place of an earlier socket: its connections stay open, and it keeps listening if its
    /// path is the same. Otherwise the other is removed when this one answers. If `is_return`, the
    /// earlier socket is this version's own and stays, wherever it is.
    pub(crate) fn follow(
        self,
        mut earlier: FrozenControl,
        is_return: bool,
    ) -> Result<BoundControlSocket<C>, Error> {
        let kept = std::mem::take(&mut earlier.connections);
        let is_here = Path::new(&earlier.path) == self.path() && earlier.is_at_its_path();
        let mut bound = if is_return {
            let is_own = earlier.is_at_its_path();
            let at = self.at(earlier.path.into());
            // The version that failed may have changed them.
            if let Err(error) = if is_own { at.file().set_access() } else { Ok(()) } {
                log_error!(reason = error.report(), "a control socket keeps its mode and owner");
            }
            BoundControlSocket::new(earlier.listener.into(), earlier.file.into(), at)
        } else if is_here {
            self.file().set_access()?;
            BoundControlSocket::new(earlier.listener.into(), earlier.file.into(), self)
        } else {
            let mut bound = self.bind()?;
            bound.former = Some(earlier);
            bound
        };
        bound.kept = kept;
        Ok(bound)
    }
}

impl<C> BoundControlSocket<C> {
    fn new(socket: OwnedFd, file: FileIdentity, settings: ControlSocket<C>) -> Self {
        let served = ControlHandle::new(settings.file(), file, settings.connections);
        Self { socket: Some(socket), served, settings, kept: Vec::new(), former: None }
    }

    /// Returns the socket as its master sees it.
    pub(crate) fn served(&self) -> ControlHandle {
        self.served.clone()
    }

    /// Answers requests, one after the other on each connection, until the future is dropped.
    ///
    /// A refusal or panic of the handler, and a request that does not decode, end the connection: plain
    /// frames have no error answer.
    ///
    /// # Errors
    ///
    /// Returns only errors that end every accept on the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    /// use release_core::rt::Rt;
    ///
    /// /// Answers pings of a daemon without workers.
    /// async fn serve(rt: Rt) -> Result<(), Box<dyn std::error::Error>> {
    ///     let bound = ControlSocket::new("/run/service.control").bind()?;
    ///     bound.serve(&rt, |_peer, _request: String| async { Ok("pong".to_owned()) }).await?;
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "control_socket")]
    pub async fn serve<R, H, F>(self, rt: &Rt, handler: H) -> io::Result<()>
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        self.serve_requests(rt, move |_, peer, request| handler(peer, request)).await
    }

    /// [`serve`](Self::serve), with a handler that knows which request it answers.
    pub(crate) async fn serve_requests<R, H, F>(mut self, rt: &Rt, handler: H) -> io::Result<()>
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(ControlRequest, Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        self.former.take().into_iter().for_each(FrozenControl::give_up);
        let mut listener = Socket::<Passive, Unix>::watch(rt, socket)?;
        let handler = Arc::new(handler);
        for kept in std::mem::take(&mut self.kept) {
            let (past, peer) = (kept.past(), kept.credentials());
            // This version may admit fewer users than the one before.
            if !self.settings.admits(peer.uid) {
                continue;
            }
            match Link::thaw(rt, kept.link) {
                Ok(link) => self.connect(link, peer, past, &handler),
                Err(error) => {
                    log_warning!(reason = error.report(), "a control connection was not kept");
                }
            }
        }
        let mut refusals = LogThrottle::default();
        loop {
            let socket = self.served.gate.accept(&mut listener).await?;
            let Ok(peer) = Credentials::of_peer(&socket) else {
                continue;
            };
            // The second line of defence beside the mode of the socket file.
            if !self.settings.admits(peer.uid) {
                discard(socket.as_fd());
                if let Some(unsaid) = refusals.now(rt.now()) {
                    let Credentials { uid, pid, .. } = peer;
                    log_warning!(uid, pid, unsaid, "a control connection was refused");
                }
                continue;
            }
            if !self.served.limiter.make_room(peer.uid, rt).await {
                discard(socket.as_fd());
                continue;
            }
            if let Ok(link) = Link::new(rt, socket, Mode::PlainServer, self.settings.limits) {
                self.connect(link, peer, Past::default(), &handler);
            }
        }
    }

    fn connect<R, H, F>(&self, link: Link, peer: Credentials, past: Past, handler: &Arc<H>)
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(ControlRequest, Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        link.set_send_limit(self.settings.answer_limit());
        let (rt, link) = (link.rt().clone(), Arc::new(link));
        let (permit, registration) = self.served.limiter.admit(&link, peer, past, rt.now());
        let connection = ControlConnection {
            rt: rt.clone(),
            server: Server::over(link, self.settings.codec.clone()),
            codec: self.settings.codec.clone(),
            permit,
            peer,
            idle_time: self.settings.idle_time,
        };
        let serving = connection.serve(Arc::clone(handler));
        rt.spawn(Abortable::new(serving, registration)).detach();
    }
}
