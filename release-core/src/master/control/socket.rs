//! `ControlSocket`: the settings of a control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use super::file::SocketFileOptions;
use crate::Error;
use crate::ipc::limits::Limits;
use crate::ipc::{DEFAULT_FRAME_LIMIT, Text};
use crate::path::absolute;

/// A Unix socket with plain frames, text by default.
///
/// The limits of its peers are part of the documented behaviour:
///
/// | limit | value |
/// |---|---|
/// | mode of the socket file | 0600, settable |
/// | users | root, the daemon's own user, the socket's owner, and [`allow_user`](ControlSocket::allow_user): checked by the peer's uid too |
/// | longest request | 64 KiB, settable |
/// | longest answer | 16 MiB, which is as much as [`plain::Client`](crate::ipc::plain::Client) takes; in place of a longer one the peer gets the codec's [`failure`](crate::ipc::Codec::failure), or the connection ends, and the log says so |
/// | time for a frame from its first byte to its last | 5 s |
/// | idle time | 60 s, settable |
/// | time in which a peer has to read something that waits for it | 60 s |
/// | connections | 64, settable; one more closes an idle connection of the user with the most connections: one without any request, or else the longest idle. If none is idle, a user with more than half of them loses one to another user |
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
    pub(super) connections: usize,
    pub(super) idle_time: Duration,
    pub(super) limits: Limits,
    pub(super) codec: C,
}

impl ControlSocket {
    /// Creates a control socket at a path, with text messages.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control");
    /// # let _ = socket;
    /// ```
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
    /// Sets the mode of the socket file, which is in force before other processes can see the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").mode(0o660);
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner and group of the socket file by their ids. The owner may then connect.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").mode(0o660).owner(1000, 1000);
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// Allows another user to connect. The mode of the socket file must allow it, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").mode(0o666).allow_user(1000);
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn allow_user(mut self, uid: u32) -> Self {
        self.users.push(uid);
        self
    }

    /// Sets the maximum length of a request, in bytes. The maximum of an answer is 16 MiB, or that of a
    /// request if it is larger.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").frame_limit(1024 * 1024);
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits.frame = bytes;
        self
    }

    /// Sets the maximum number of open connections.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").connections(16);
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// Sets the time after which a connection without a request is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ControlSocket;
    ///
    /// let socket = ControlSocket::new("/run/service.control").idle_time(Duration::from_secs(600));
    /// # let _ = socket;
    /// ```
    #[must_use]
    pub fn idle_time(mut self, time: Duration) -> Self {
        self.idle_time = time;
        self
    }

    /// Sets another codec than text.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ControlSocket;
    /// use release_core::ipc::Postcard;
    ///
    /// let socket = ControlSocket::new("/run/service.control").codec(Postcard);
    /// # let _ = socket;
    /// ```
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

    pub(crate) fn own_codec(&self) -> &C {
        &self.codec
    }

    /// Makes relative paths independent of the working directory that is left later.
    pub(crate) fn make_absolute(&mut self) -> Result<(), Error> {
        self.path = absolute(&self.path)?;
        Ok(())
    }

    /// Returns the same settings at another path.
    pub(super) fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// Returns whether this user may connect.
    pub(super) fn admits(&self, uid: u32) -> bool {
        uid == 0
            || uid == geteuid().as_raw()
            || self.owner.is_some_and(|(owner, _)| owner == uid)
            || self.users.contains(&uid)
    }

    pub(super) fn file(&self) -> SocketFileOptions {
        SocketFileOptions { path: self.path.clone(), mode: self.mode, owner: self.owner }
    }

    pub(crate) fn answer_limit(&self) -> u32 {
        self.limits.frame.max(DEFAULT_FRAME_LIMIT)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
