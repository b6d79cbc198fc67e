//! A worker's process from the fork until it is connected.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::ipc::hello::{Agreed, Hello, PROTOCOL, Types};
use crate::master::group::{Contact, Group, WorkerSetup};
use crate::process::attach::{Attach, Attached};
use crate::process::child::KillOnDrop;
use crate::process::output::Pipes;
use crate::process::readiness::{ChildResources, PendingReadiness};
use crate::supervise::WorkerId;
use crate::sys::shared_memory::SharedMemory;
use crate::sys::socket::{mark_as_worker_s, pair};
use crate::sys::spawn::SpawnError;
use crate::{Error, ErrorKind};

/// A request of the pool for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpawnRequest {
    pub(crate) id: WorkerId,
    pub(crate) generation: u32,
}

/// A process that runs its program and is not connected yet.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(super) child: KillOnDrop,
    pub(super) ours: Ours,
    pub(super) pipes: Option<Pipes>,
    /// Number of replacements of the outputs before it got its own.
    pub(super) outputs: u64,
    /// Number of replacements of listening sockets.
    pub(super) sockets: u64,
    pub(super) metrics: Option<Arc<SharedMemory>>,
}

/// The master's state of a process that is being started.
#[derive(Debug)]
pub(super) enum Ours {
    Connection { attach: Arc<dyn Attach>, socket: OwnedFd, hello: Hello },
    Readiness(PendingReadiness),
}

/// Returns whether the system may soon have again the resource that it refuses.
pub(super) fn is_shortage(error: &Error) -> bool {
    let number = |cause: &(dyn std::error::Error + 'static)| -> Option<Errno> {
        let refused = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let refused = refused.map(Errno::from_raw);
        refused.or_else(|| cause.downcast_ref::<SpawnError>()?.errno())
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.filter_map(number).any(|errno| {
        use Errno::{EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
        matches!(errno, EMFILE | ENFILE | EAGAIN | ENOMEM | ENOBUFS)
    })
}

/// Creates the two ends of the connection between master and worker.
pub(super) fn ends(
    group: &Group,
    request: SpawnRequest,
    its: WorkerSetup,
) -> Result<(Ours, ChildResources), Error> {
    match &group.contact {
        Contact::Connection(attach) => {
            let made = pair().map_err(|error| Error::system("cannot make a socket pair", error));
            let (socket, theirs) = made?;
            mark_as_worker_s(&theirs);
            let hello = hello(group, request, its);
            let attach = Arc::clone(attach);
            Ok((Ours::Connection { attach, socket, hello }, ChildResources::stdin(theirs)))
        }
        Contact::Command(readiness) => {
            let (given, awaited) = readiness.prepare(request.id, &group.listener_names())?;
            Ok((Ours::Readiness(awaited), given))
        }
    }
}

fn hello(group: &Group, request: SpawnRequest, its: WorkerSetup) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: request.id.0,
        generation: request.generation,
        group: group.name.to_string(),
        agreed: Agreed::of(group.limits),
        listeners: group.passed_names(),
        // The connection adds the names. A program of another build may name its types differently.
        types: group.is_same_executable().then(|| Box::new(Types::of_context(its.context_type))),
        context: its.context,
    }
}

pub(super) fn no_group(id: WorkerId) -> Error {
    let message = format!("worker {id} is of a group that this version does not have");
    Error::new(ErrorKind::Worker, message)
}

/// Makes a worker write to the files of this process. If that fails, it continues with its own.
pub(super) fn send_outputs(worker: WorkerId, connection: &Attached) {
    // A worker whose connection has ended ends soon, too.
    let Some(link) = connection.link.upgrade() else { return };
    let (output, error) = (io::stdout(), io::stderr());
    if let Err(error) = link.send_outputs([output.as_fd(), error.as_fd()]) {
        log_error!(worker = worker.0, %error, "cannot send a worker its log file");
    }
}
