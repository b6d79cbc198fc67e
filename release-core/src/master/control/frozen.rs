//! `FrozenControl`: a control socket and its connections as a value, between two process images.

use std::fs::remove_file;
use std::path::Path;

use crate::ipc::Descriptor;
use crate::ipc::link::frozen::Frozen;
use crate::kept;
use crate::net::{Credentials, FileIdentity};

/// A control socket and its connections, as a value.
pub(crate) type FrozenControl = kept::Control<Descriptor>;

/// A connection of a control socket.
pub(super) type FrozenConnection = kept::Connection<Descriptor>;

/// The past of a connection in an earlier image of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    /// Whether the peer has sent a request.
    pub(super) has_asked: bool,
    /// Whether the next request has begun already and waits for the end of the upgrade.
    pub(super) has_waited: bool,
}

impl FrozenConnection {
    pub(super) fn new(link: Frozen, peer: Credentials, past: Past) -> Self {
        let Past { has_asked: asked, has_waited: waits } = past;
        Self { link, peer: (peer.pid, peer.uid, peer.gid), asked, waits }
    }

    pub(super) fn credentials(&self) -> Credentials {
        let (pid, uid, gid) = self.peer;
        Credentials { pid, uid, gid }
    }

    pub(super) fn past(&self) -> Past {
        Past { has_asked: self.asked, has_waited: self.waits }
    }
}

impl FrozenControl {
    /// Returns the links of its connections.
    pub(crate) fn links(self) -> impl Iterator<Item = Frozen> {
        self.connections.into_iter().map(|connection| connection.link)
    }

    /// Returns whether the file at the path still belongs to the socket.
    pub(super) fn is_at_its_path(&self) -> bool {
        let own = FileIdentity::from(self.file);
        FileIdentity::of(Path::new(&self.path)).is_ok_and(|file| file == own)
    }

    /// Removes the file, if it is still the socket's own, and closes the connections.
    pub(crate) fn give_up(self) {
        if self.is_at_its_path() {
            let _ = remove_file(&self.path);
        }
    }
}

/// Returns the earlier control socket that each of these follows: the one at its path, or else the
/// first one whose path no longer has a socket. The rest have no successor, and must be given up.
pub(crate) fn successors(
    paths: &[&Path],
    mut earlier: Vec<FrozenControl>,
) -> (Vec<Option<FrozenControl>>, Vec<FrozenControl>) {
    let mut take = |path: &Path| {
        let at = earlier.iter().position(|control| Path::new(&control.path) == path)?;
        Some(earlier.remove(at))
    };
    let mut found: Vec<_> = paths.iter().map(|path| take(path)).collect();
    let mut left = earlier.into_iter();
    for none in found.iter_mut().filter(|found| found.is_none()) {
        *none = left.next();
    }
    (found, left.collect())
}
