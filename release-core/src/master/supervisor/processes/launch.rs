//! A worker's process from the fork until it is connected.

use std::error::Error as _;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use crate::ipc::hello::{Agreed, Hello, PROTOCOL, Types};
use crate::master::group::{Contact, Group, WorkerSetup};
use crate::process::attach::Attach;
use crate::process::child::Bound;
use crate::process::output::Pipes;
use crate::process::readiness::{ChildResources, PendingReadiness};
use crate::process::unexecutable::why_not;
use crate::supervise::WorkerId;
use crate::sys::socket::{mark_as_worker_s, pair};
use crate::sys::spawn::{Command, SpawnError};
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
    pub(super) child: Bound,
    pub(super) ours: Ours,
    pub(super) pipes: Option<Pipes>,
    /// Number of replacements of the outputs before it got its own.
    pub(super) outputs: u64,
    /// Number of replacements of listening sockets.
    pub(super) sockets: u64,
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

/// Returns a function that explains why the process of a command could not be started.
///
/// The master does not read the files of another account: they may be on a file system that never
/// answers.
pub(super) fn not_started(command: &Command) -> impl Fn(SpawnError) -> Error + Clone + use<> {
    let program = PathBuf::from(OsStr::from_bytes(command.program.as_bytes()));
    let account = command.identity.account().map(str::to_owned);
    let directory = command.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
    move |error| {
        if let (Some(directory), true) = (&directory, error.is_of_directory()) {
            let message = format!("cannot use {directory} as working directory");
            return Error::new(ErrorKind::Worker, message).caused_by(error);
        }
        let why = match (&account, error.refusal()) {
            (None, Some(errno)) => why_not(&program, errno),
            (Some(name), Some(Errno::EACCES)) => {
                Some(format!("user `{name}` may not execute it, or not reach it"))
            }
            (Some(_), Some(Errno::ENOENT)) => {
                Some("it does not exist, or the interpreter that its first line names".to_owned())
            }
            _ => None,
        };
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Error::new(ErrorKind::Worker, format!("cannot start {}{why}", program.display()))
            .caused_by(error)
    }
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
        listeners: group.listener_names(),
        // The connection adds the names. A program of another build may name its types differently.
        types: group.is_same_executable().then(|| Box::new(Types::of_context(its.context_type))),
        context: its.context,
    }
}

pub(super) fn no_group(id: WorkerId) -> Error {
    let message = format!("worker {id} is of a group that this version does not have");
    Error::new(ErrorKind::Worker, message)
}
