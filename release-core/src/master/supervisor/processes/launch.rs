//! A worker's process from the fork until it is connected.

use std::error::Error as _;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::signal::Signal as Sig;

use super::{MasterEvent, Process, Processes, Wish, no_group, send_outputs};
use crate::ipc::hello::{Agreed, Hello, PROTOCOL, Types};
use crate::master::group::{Contact, Group, WorkerSetup};
use crate::process::attach::{Attach, NewConnection};
use crate::process::child::{Bound, Child};
use crate::process::output::Pipes;
use crate::process::readiness::{ChildResources, PendingReadiness};
use crate::process::unexecutable::why_not;
use crate::process::worker_info::WorkerInfo;
use crate::supervise::{Event, WorkerId};
use crate::sys::socket::{mark_as_worker_s, pair};
use crate::sys::spawn::{Command, FIRST_PASSED, SpawnError, spawn};
use crate::{Error, ErrorKind};

/// A process that runs its program and is not connected yet.
#[derive(Debug)]
pub(in crate::master::supervisor) struct Launched {
    child: Bound,
    ours: Ours,
    pipes: Option<Pipes>,
    /// How often the outputs had been replaced when it got its own.
    outputs: u64,
    /// The same of listening sockets.
    sockets: u64,
}

/// The master's state of a process that is being started.
#[derive(Debug)]
enum Ours {
    Connection { attach: Arc<dyn Attach>, socket: OwnedFd, hello: Hello },
    Foreign(PendingReadiness),
}

impl Processes {
    /// Forks a worker's process; whether it runs its program is news that comes later.
    pub(in crate::master::supervisor) fn launch(&mut self, wish: Wish) -> Result<(), Error> {
        let id = wish.id;
        let its = self.particulars(wish)?;
        let group = self.group(id).ok_or_else(|| no_group(id))?;
        let mut command = group.command(id, &its, self.image_of(wish.generation))?;
        let (ours, mut given) = ends(group, wish, its)?;
        command.environment.append(&mut given.environment);
        let pipes = group.output.as_ref().map(Pipes::new).transpose()?;
        let failed = not_started(&command);
        let index = self.master.pool().group_of(id);
        let group = index.and_then(|index| self.groups.get_mut(index));
        let listeners = group.ok_or_else(|| no_group(id))?.passed(id)?;
        self.watch.iter().for_each(|watch| listeners.iter().for_each(|socket| watch.add(socket)));
        let descriptors: Vec<_> = given
            .descriptors()
            .chain(pipes.iter().flat_map(Pipes::descriptors))
            .chain((FIRST_PASSED..).zip(listeners))
            .collect();
        let started = spawn(&command, &descriptors).map_err(failed.clone())?;
        let sockets = self.group(id).map_or(0, Group::listeners_replaced);
        let (rt, sender, outputs) = (self.rt.clone(), self.sender.clone(), self.outputs);
        let launching = self.rt.spawn(async move {
            let outcome = Child::launched(&rt, started).await.map_err(failed);
            let outcome =
                outcome.map(|child| Box::new(Launched { child, ours, pipes, outputs, sockets }));
            let _ = sender.unbounded_send(MasterEvent::Launched(wish, outcome));
        });
        self.launching.insert(id, launching);
        Ok(())
    }

    /// Connects a process that runs its program; says to the pool what became of the launch.
    pub(in crate::master::supervisor) fn adopt(
        &mut self,
        wish: Wish,
        outcome: Result<Box<Launched>, Error>,
    ) -> Event {
        let Wish { id, generation } = wish;
        self.launching.remove(&id);
        let Launched { child, ours, pipes, outputs, sockets } = match outcome {
            Ok(launched) => *launched,
            Err(error) => return self.not_launched(id, &error),
        };
        let (pid, child) = (child.child().pid().as_raw(), child.release());
        let finished = Arc::<AtomicU64>::default();
        let Some(group) = self.group(id) else { return self.not_launched(id, &no_group(id)) };
        let (name, rt) = (Arc::clone(&group.name), self.rt.clone());
        let worker = WorkerInfo { id: id.0, pid, group: name, generation, rt };
        let output = pipes.map(|pipes| pipes.watch(&self.rt, worker.clone())).transpose();
        let output = output.unwrap_or_else(|error| {
            log_error!(worker = id.0, pid, %error, "a worker's output is lost");
            None
        });
        let (news, silence) = self.listen(id, pid, Arc::clone(&finished));
        let (connection, silence) = match ours {
            Ours::Connection { attach, socket, hello } => {
                let limits = group.limits;
                (
                    attach.attach(worker, NewConnection { socket, hello, limits }, news),
                    Some(silence),
                )
            }
            Ours::Foreign(awaited) => (Ok(awaited.attach(&self.rt, &worker, news)), None),
        };
        let connection = connection.inspect_err(|error| {
            // It ends, and its exit is the news.
            let reason = error.report();
            log_error!(worker = id.0, pid, reason, "no connection to a worker");
            let _ = child.signal(Sig::SIGKILL);
        });
        let connection = connection.ok();
        if let Some(connection) =
            connection.as_ref().filter(|_| outputs != self.outputs && output.is_none())
        {
            send_outputs(id, connection);
        }
        let watch = self.watch(id, Arc::clone(&child), output.clone(), silence);
        let is_told = false;
        let process = Process {
            child,
            generation,
            connection,
            output,
            is_told,
            finished,
            sockets,
            _watch: watch,
        };
        self.running.insert((id, pid), process);
        self.launched(id, Some(pid));
        Event::Spawned { id, pid }
    }

    pub(in crate::master::supervisor) fn not_launched(
        &mut self,
        id: WorkerId,
        error: &Error,
    ) -> Event {
        self.launched(id, None);
        Event::SpawnFailed { id, reason: error.report(), is_short: is_shortage(error) }
    }

    fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        if let Some(group) = self.group_mut(id) {
            group.launched(id, pid);
        }
    }
}

/// Whether the system may soon have again what it refuses.
fn is_shortage(error: &Error) -> bool {
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

/// Returns the reason why the process of a command could not be started.
///
/// The files of another account may be on a file system of its own, which answers when it likes: the
/// master does not look at them.
fn not_started(command: &Command) -> impl Fn(SpawnError) -> Error + Clone + use<> {
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

/// The two ends of the connection between master and worker.
fn ends(group: &Group, wish: Wish, its: WorkerSetup) -> Result<(Ours, ChildResources), Error> {
    match &group.contact {
        Contact::Connection(attach) => {
            let made = pair().map_err(|error| Error::system("cannot make a socket pair", error));
            let (socket, theirs) = made?;
            mark_as_worker_s(&theirs);
            let hello = hello(group, wish, its);
            let attach = Arc::clone(attach);
            Ok((Ours::Connection { attach, socket, hello }, ChildResources::stdin(theirs)))
        }
        Contact::Foreign(foreign) => {
            let (given, awaited) = foreign.prepare(wish.id, &group.listener_names())?;
            Ok((Ours::Foreign(awaited), given))
        }
    }
}

fn hello(group: &Group, wish: Wish, its: WorkerSetup) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: wish.id.0,
        generation: wish.generation,
        group: group.name.to_string(),
        agreed: Agreed::of(group.limits),
        listeners: group.listener_names(),
        // The connection fills the names in; a program of another build may call its types otherwise.
        types: group.is_same_executable().then(|| Box::new(Types::of_context(its.context_type))),
        context: its.context,
    }
}
