//! Listening sockets, and control sockets with their connections.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::Link;

/// A socket of a listener.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listener<D> {
    /// Group, name and address. The next version gets the socket if it requests the same.
    pub(crate) key: [String; 3],
    /// The worker that has the socket for itself, and the port shared with other workers.
    pub(crate) worker: Option<(u32, u16)>,
    /// The process that has the socket for itself, if each process has one.
    pub(crate) process: Option<i32>,
    pub(crate) socket: D,
    pub(crate) file: Option<FileIdentity>,
    /// The secret of the connection ids, beside the master's socket of a QUIC listener.
    #[serde(default)]
    pub(crate) secret: Option<Vec<u8>>,
}

/// The file of a Unix socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Control<D> {
    pub(crate) path: OsString,
    pub(crate) file: FileIdentity,
    pub(crate) listener: D,
    pub(crate) connections: Vec<Connection<D>>,
}

/// A connection of a control socket. A request that waits for the end of the upgrade is the first of
/// its input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connection<D> {
    pub(crate) link: Link<D>,
    /// Process, user and group of the peer.
    pub(crate) peer: (i32, u32, u32),
    /// Whether the peer has sent a request.
    pub(crate) asked: bool,
    /// Whether the next request has begun already and waits for the end of the upgrade.
    pub(crate) waits: bool,
}
