//! The master's side of one worker's connection, in call mode or plain.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connections::Connections;
use super::worker_info::WorkerInfo;
use crate::Error;
use crate::ipc::Peer;
use crate::ipc::hello::{Hello, Types};
use crate::ipc::limits::Limits;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::link::{Link, Mode};
use crate::rt::{Rt, Task};
use crate::worker_types::Hung;

mod calls;
mod plain;
#[cfg(test)]
mod tests;

pub use calls::Decision;
pub(crate) use calls::{Calls, Rules};
pub(crate) use plain::Plain;

/// What the supervisor hears from a connection.
pub(crate) type Notify = Box<dyn Fn(WorkerEvent) + Send + Sync>;

/// Something that a worker says, in call mode or by a readiness protocol, or that its connection shows.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    Ready,
    /// How many units of work it has finished.
    Finished(u64),
    /// It does not get on with its work.
    Hung(Hung),
    /// It needs so much more time to start or to end.
    Extend(Duration),
    /// It ends of itself.
    Stops,
    /// How it is, in one line.
    Status(String),
    /// The worker closed this. It may be about to exit; if not, it is of no use any more.
    Closed(&'static str),
    /// The worker broke the protocol or does not read: this is what it did.
    Violation(String),
}

/// A worker's connection, and the task that serves it until it is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Gone when it has ended and nobody uses it any more.
    pub(crate) link: Weak<Link>,
    pub(crate) serving: Task<()>,
}

/// The master's end of a new worker's connection, and the greeting for the worker.
pub(crate) struct NewConnection {
    pub(crate) socket: OwnedFd,
    pub(crate) hello: Hello,
    pub(crate) limits: Limits,
}

/// Serves the connections of a group's workers, whatever the types of their messages.
pub(crate) trait Attach: Send + Sync {
    /// Greets the worker and serves it.
    fn attach(
        &self,
        worker: WorkerInfo,
        connection: NewConnection,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Serves a worker that an earlier image of this process has greeted. Its `Ready` may be among
    /// what it has sent and nobody has read.
    ///
    /// The state that [`Workers::answer_permitted`](crate::Workers::answer_permitted) has for each
    /// process begins anew.
    fn reattach(
        &self,
        worker: WorkerInfo,
        frozen: Frozen,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Whether workers of this kind say when they are ready; the others are in plain mode.
    fn says_ready(&self) -> bool;

    /// What workers and master tell each other; no context.
    fn types(&self) -> &Types;
}

fn cannot_watch(error: std::io::Error) -> Error {
    Error::system("cannot watch a worker's socket", error)
}

/// The link, if it is one of this kind.
fn thaw(rt: &Rt, frozen: Frozen, mode: Mode) -> Result<Arc<Link>, Error> {
    if frozen.mode() != mode {
        let message = "calls and plain mode are different connections";
        return Err(Error::new(crate::ErrorKind::Protocol, message));
    }
    Link::thaw(rt, frozen).map(Arc::new)
}

/// Takes a worker off the list when its serving ends, however it ends.
struct Listed<W, C> {
    connections: Connections<W, C>,
    worker: WorkerInfo,
}

impl<W, C> Listed<W, C> {
    fn new(connections: &Connections<W, C>, worker: WorkerInfo, peer: Peer<W, C>) -> Self {
        connections.add(worker.clone(), peer);
        Self { connections: connections.clone(), worker }
    }
}

impl<W, C> Drop for Listed<W, C> {
    fn drop(&mut self) {
        self.connections.remove(&self.worker);
    }
}
