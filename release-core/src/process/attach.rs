//! The master's side of a worker's connection, in call mode or plain mode.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connections::Connections;
use super::services::GroupServices;
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
mod leftover;
mod plain;
#[cfg(test)]
mod tests;

pub use calls::Decision;
pub(crate) use calls::{Calls, Rules};
pub(crate) use leftover::serve_leftover;
pub(crate) use plain::Plain;

/// Reports events to the supervisor.
pub(crate) type Notify = Box<dyn Fn(WorkerEvent) + Send + Sync>;

/// An event reported by a worker, in call mode or through a readiness protocol, or observed on its
/// connection.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    Ready,
    /// The number of units of work that the worker has finished.
    Finished(u64),
    /// The worker does not make progress.
    Hung(Hung),
    /// The worker needs this much more time to start or to stop.
    Extend(Duration),
    /// The worker stops on its own.
    Stopping,
    /// The status of the worker, in one line.
    Status(String),
    /// The worker closed this. It may be about to exit; otherwise it cannot be used any more.
    Closed(&'static str),
    /// The worker violated the protocol, or does not read; with a description.
    Violation(String),
}

/// The connection of a worker, and the task that serves it until this value is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Dangling after the connection has ended and all its users are gone.
    pub(crate) link: Weak<Link>,
    pub(crate) serving: Task<()>,
}

/// The master's end of a new worker's connection, and the greeting for the worker.
pub(crate) struct NewConnection {
    pub(crate) socket: OwnedFd,
    pub(crate) hello: Hello,
    pub(crate) limits: Limits,
    pub(crate) services: GroupServices,
}

/// Serves the connections of a group's workers, independently of the types of their messages.
pub(crate) trait Attach: Send + Sync {
    /// Greets the worker and serves it.
    fn attach(
        &self,
        worker: WorkerInfo,
        connection: NewConnection,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Serves a worker that was greeted by an earlier image of this process. Its `Ready` may be
    /// among its unread messages.
    ///
    /// The state of [`Workers::answer_permitted`](crate::Workers::answer_permitted) starts again
    /// for each process.
    fn reattach(
        &self,
        worker: WorkerInfo,
        frozen: Frozen,
        services: GroupServices,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Returns whether workers of this kind report when they are ready. Otherwise they are in plain
    /// mode.
    fn says_ready(&self) -> bool;

    /// Returns the types of the messages, without the context.
    fn types(&self) -> &Types;
}

fn cannot_watch(error: std::io::Error) -> Error {
    Error::system("cannot watch a worker's socket", error)
}

/// Returns the link if it has this mode.
fn thaw(rt: &Rt, frozen: Frozen, mode: Mode) -> Result<Arc<Link>, Error> {
    if frozen.mode() != mode {
        let message = "calls and plain mode are different connections";
        return Err(Error::new(crate::ErrorKind::Protocol, message));
    }
    Link::thaw(rt, frozen).map(Arc::new)
}

/// Removes a worker from the list when it is no longer served, for any reason.
struct Registration<W, C: Clone> {
    connections: Connections<W, C>,
    worker: WorkerInfo,
}

impl<W, C: Clone> Registration<W, C> {
    fn new(connections: &Connections<W, C>, worker: WorkerInfo, peer: Peer<W, C>) -> Self {
        connections.add(worker.clone(), peer);
        Self { connections: connections.clone(), worker }
    }
}

impl<W, C: Clone> Drop for Registration<W, C> {
    fn drop(&mut self) {
        self.connections.remove(&self.worker);
    }
}
