//! Control sockets (rows R4, R13): a Unix socket where scripts and people ask a daemon.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortRegistration, Abortable};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{Gid, Uid, fchownat, geteuid};

use crate::ipc::limits::Limits;
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::{Codec, Refused, Request, Text};
use crate::net::{Credentials, FileIdentity, Passive, Socket, Unix};
use crate::rt::Rt;
use crate::seldom::Seldom;
use crate::{Error, ErrorKind};

mod connection;
mod handover;
mod pause;
mod seats;
#[cfg(test)]
mod tests;

use connection::Connection;
use handover::FrozenConnection;
pub(crate) use handover::{FrozenControl, Served, successors};
pub(crate) use seats::{Asking, Waiting};
use seats::{Seat, Seats};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 128;

/// A Unix socket that speaks plain frames, text by default.
///
/// What it grants its peers, documented because it is part of the promise:
///
/// | limit | value |
/// |---|---|
/// | mode of the socket file | 0600, settable |
/// | who may connect | root, the daemon's own user and the socket's owner: checked by the peer's uid too |
/// | longest frame | 64 KiB, settable |
/// | time for a frame from its first byte to its last | 5 s |
/// | idle time | 60 s, settable |
/// | time in which a peer has to read something that waits for it | 60 s |
/// | connections | 64, settable; one more takes the place of the one that has been idle longest, those first that never asked |
///
/// # Examples
///
/// ```
/// use release_core::ControlSocket;
///
/// let socket = ControlSocket::new("/run/service/control").mode(0o660).allow_user(1000);
/// # let _ = socket;
/// ```
#[derive(Clone, Debug)]
pub struct ControlSocket<C = Text> {
    path: PathBuf,
    mode: u32,
    owner: Option<(u32, u32)>,
    users: Vec<u32>,
    connections: usize,
    idle_time: Duration,
    limits: Limits,
    codec: C,
}

impl ControlSocket {
    /// A control socket at a path, speaking text.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o600,
            owner: None,
            users: Vec::new(),
            connections: 64,
            idle_time: Duration::from_secs(60),
            limits: Limits {
                frame: 64 * 1024,
                frame_time: Duration::from_secs(5),
                unsent: 64 * 1024,
                unsent_time: Duration::from_secs(60),
                ..Limits::IPC
            },
            codec: Text,
        }
    }
}

impl<C> ControlSocket<C> {
    /// The mode of the socket file, set before anybody can see it.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The owner and group of the socket file (ids), who may then connect.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// One more user who may connect. The socket's mode must let them, too.
    #[must_use]
    pub fn allow_user(mut self, uid: u32) -> Self {
        self.users.push(uid);
        self
    }

    /// The longest frame in either direction, in bytes.
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits.frame = bytes;
        self
    }

    /// How many connections may be open at a time.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// How long a connection may be without a request.
    #[must_use]
    pub fn idle_time(mut self, time: Duration) -> Self {
        self.idle_time = time;
        self
    }

    /// Another codec than text.
    #[must_use]
    pub fn codec<D>(self, codec: D) -> ControlSocket<D> {
        ControlSocket {
            path: self.path,
            mode: self.mode,
            owner: self.owner,
            users: self.users,
            connections: self.connections,
            idle_time: self.idle_time,
            limits: self.limits,
            codec,
        }
    }

    /// Makes relative paths independent of the working directory that is left later.
    pub(crate) fn make_absolute(&mut self) -> Result<(), Error> {
        self.path = absolute(&self.path)?;
        Ok(())
    }

    /// Binds the socket: nobody else can have it, and its mode is right from the first moment.
    ///
    /// A socket file that nobody answers on, left by a daemon that was killed, is replaced.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyRunning`] when somebody answers on the path, whose socket stays
    /// untouched; [`ErrorKind::Usage`] when something other than a socket is there or the path is
    /// too long; [`ErrorKind::System`] for what bind(2) and its neighbours refuse.
    pub fn bind(self) -> Result<BoundControlSocket<C>, Error> {
        let address = Unix::path(&self.path);
        let bound = Socket::unconnected(&address)
            .and_then(|socket| socket.mode(self.mode)?.bind(&address))
            .map_err(|error| self.cannot_make(error))?;
        let file = FileIdentity::of(&self.path)?;
        self.set_owner()?;
        let socket = bound.into_listening(BACKLOG).map_err(|error| self.cannot_make(error))?;
        Ok(BoundControlSocket::new(socket, file, self))
    }

    fn set_owner(&self) -> Result<(), Error> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(AT_FDCWD, &self.path, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| self.cannot_make(Error::system("cannot change its owner", errno)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    #[cold]
    fn cannot_make(&self, error: Error) -> Error {
        let path = self.path.display();
        if error.kind() == ErrorKind::AlreadyRunning {
            let message = format!("already running: somebody answers on the control socket {path}");
            return Error::new(ErrorKind::AlreadyRunning, message);
        }
        Error::new(error.kind(), format!("cannot make the control socket {path}")).caused_by(error)
    }
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| {
        Error::system(format!("cannot resolve the path {}", path.display()), error)
    })
}

/// A control socket that listens. Dropping it removes the socket file, if it is still its own.
#[derive(Debug)]
pub struct BoundControlSocket<C = Text> {
    socket: Option<OwnedFd>,
    file: FileIdentity,
    settings: ControlSocket<C>,
    seats: Arc<Seats>,
    /// Connections of an earlier image of this process.
    kept: Vec<FrozenConnection>,
}

impl<C> Drop for BoundControlSocket<C> {
    fn drop(&mut self) {
        let path = &self.settings.path;
        if self.seats.is_frozen() {
            return;
        }
        if FileIdentity::of(path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<C> BoundControlSocket<C> {
    fn new(socket: OwnedFd, file: FileIdentity, settings: ControlSocket<C>) -> Self {
        let (seats, kept) = (Arc::default(), Vec::new());
        Self { socket: Some(socket), file, settings, seats, kept }
    }

    /// Answers requests, one after the other on each connection, until the future is dropped.
    ///
    /// A handler that refuses ends its connection, and so does a request that does not decode:
    /// plain frames have no other way to say so. A handler that panics does the same.
    ///
    /// # Errors
    ///
    /// Only what ends every accept on the socket.
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
                    let seat = self.seats.keep(asked, waits, rt.now());
                    self.connect(rt, link, seat, credentials, &handler);
                }
                Err(error) => {
                    tracing::warn!(reason = error.report(), "a control connection was not kept");
                }
            }
        }
        let mut refusals = Seldom::default();
        loop {
            let socket = self.seats.accept(&mut listener).await?;
            let Ok(credentials) = Credentials::of_peer(&socket) else {
                continue;
            };
            if !self.admits(credentials.uid) {
                if let Some(unsaid) = refusals.now(rt.now()) {
                    let Credentials { uid, pid, .. } = credentials;
                    tracing::warn!(uid, pid, unsaid, "a control connection was refused");
                }
                continue;
            }
            let Some(seat) = self.seats.wait_for_one(self.settings.connections, rt).await else {
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
        let link = Arc::new(link);
        seat.connected(&link, credentials);
        let connection = Connection {
            rt: rt.clone(),
            server: Server::over(link, self.settings.codec.clone()),
            seat,
            credentials,
            idle_time: self.settings.idle_time,
        };
        let serving = connection.serve(Arc::clone(handler));
        rt.spawn(Abortable::new(serving, registration)).detach();
    }

    /// The mode of the socket file is one line of defence, this is the other.
    fn admits(&self, uid: u32) -> bool {
        uid == 0
            || uid == geteuid().as_raw()
            || self.settings.owner.is_some_and(|(owner, _)| owner == uid)
            || self.settings.users.contains(&uid)
    }
}
