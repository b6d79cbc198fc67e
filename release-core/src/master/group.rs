//! A group of workers that is checked and ready to be run.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::settings::Generations;
use crate::guard::{Guard, Panicked};
use crate::ipc::hello::{METRICS, MessageType, Types};
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Postcard};
use crate::jobs::Follow;
use crate::kept;
use crate::path::{absolute, c_string};
use crate::process::attach::Attach;
use crate::process::listeners::{KeptListener, Listener, Steered, Watch};
use crate::process::options::{CheckedOptions, WorkerOptions};
use crate::process::output::Capture;
use crate::process::readiness::GroupReadiness;
use crate::process::services::GroupServices;
use crate::process::stop_signal::StopSignal;
use crate::sandbox::CheckedSandbox;
use crate::start_files::looked_up;
use crate::supervise::{Elastic, GroupSpec, LifeLimits, State, WorkerId};
use crate::sys::creds::ProcessCredentials;
use crate::sys::spawn::{Command, Identity};
use crate::{Error, ErrorKind};

/// Interval of the measurements of processes.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

const SIZE: Guard = Guard::new("size_from");
const OPTIONS: Guard = Guard::new("worker_options");
/// Number of no generation: before any is tried, the value of settings is the one in force.
pub(crate) const FIRST: u32 = 0;

const CONTEXT: Guard = Guard::new("context");

/// A group that is checked and ready to run.
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) contact: Contact,
    pub(crate) stop_signal: StopSignal,
    pub(crate) output: Option<Capture>,
    pub(crate) limits: Limits,
    pub(crate) spec: GroupSpec,
    pub(crate) program: WorkerProgram,
    pub(crate) environment: Vec<CString>,
    /// The working directory of the workers, and their root directory.
    pub(crate) directory: Option<CString>,
    pub(crate) root: Option<CString>,
    pub(crate) credentials: Option<ProcessCredentials>,
    pub(crate) sandbox: Option<CheckedSandbox>,
    pub(crate) listeners: Vec<Listener>,
    /// Whether its workers have memory for metrics.
    pub(crate) has_metrics: bool,
    pub(crate) context: Context,
    pub(crate) options: Option<Options>,
    /// Makes the size from settings, if they set it.
    pub(crate) sizes: Option<Sizes>,
    pub(crate) settings: Vec<Arc<dyn Generations>>,
    /// Decides about its size, if that follows the load.
    pub(crate) elastic: Option<Elastic>,
    /// The pool whose jobs its workers carry out.
    pub(crate) jobs: Option<Arc<dyn Follow>>,
    /// Names of the groups that its workers call.
    pub(crate) channel_to: Vec<String>,
    pub(crate) services: GroupServices,
}

/// Message types of the workers of a group and their master.
pub(crate) type GroupTypes = kept::GroupTypes<Types>;

impl Contact {
    fn is_plain(&self) -> bool {
        match self {
            Self::Connection(attach) => !attach.says_ready(),
            Self::Command(_) => true,
        }
    }

    /// Returns the types of the messages between master and workers.
    fn types(&self) -> Types {
        match self {
            Self::Connection(attach) => attach.types().clone(),
            Self::Command(_) => Types::none(),
        }
    }
}

impl fmt::Debug for dyn Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attach")
    }
}

/// The communication between master and workers.
pub(crate) enum Contact {
    /// Workers have a connection, which is their standard input.
    Connection(Arc<dyn Attach>),
    Command(GroupReadiness),
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Makes the number of workers from their generation.
pub(crate) type Sizes = Box<dyn Fn(u32) -> u32 + Send + Sync>;

/// Makes the options of one worker from its generation and id.
pub(crate) type Options = Box<dyn Fn(u32, u32) -> WorkerOptions + Send + Sync>;

/// A setup for the next version of the program.
pub(crate) type KeptSetup = kept::Setup<MessageType>;

/// Context and options of a worker, shared by all its processes of a generation.
#[derive(Clone, Debug)]
pub(crate) struct WorkerSetup {
    pub(crate) context: Vec<u8>,
    pub(crate) context_type: MessageType,
    given: WorkerOptions,
    options: CheckedOptions,
}

impl WorkerSetup {
    pub(crate) fn keep(&self) -> KeptSetup {
        KeptSetup {
            context: self.context.clone(),
            context_type: self.context_type.clone(),
            options: self.given.clone().into(),
        }
    }

    /// Checks the setup of a worker that the previous version of the program has started.
    pub(crate) fn adopt(kept: KeptSetup) -> Result<Self, Error> {
        let KeptSetup { context, context_type, options } = kept;
        let given = WorkerOptions::from(options);
        let options = given.clone().check()?;
        Ok(Self { context, context_type, given, options })
    }
}

impl Group {
    pub(crate) fn spec(&self) -> GroupSpec {
        self.spec.clone()
    }

    pub(crate) fn life(&self) -> &LifeLimits {
        &self.spec.life
    }

    /// Returns the interval of the measurements that the group needs, if its processes have limits or a
    /// heartbeat, or its size follows the load. A master that watches others notices with each that it was
    /// held up itself; for that, it need not wake up more often than it asks them.
    pub(crate) fn measured_every(&self) -> Option<Duration> {
        let life = self.life();
        match life.counts_requests() || life.weighs_memory() || self.elastic.is_some() {
            true => Some(MEASURE_EVERY),
            false => self.limits.pulse.map(|heartbeat| heartbeat.every.max(MEASURE_EVERY)),
        }
    }

    /// Returns the setup of one worker: its context, and the options of its processes.
    pub(crate) fn worker_setup(&self, id: WorkerId, generation: u32) -> Result<WorkerSetup, Error> {
        let given = self.given_options(id, generation)?;
        Ok(WorkerSetup {
            context: self.encoded_context(id, generation)?,
            context_type: self.context.message.clone(),
            options: check(given.clone(), &self.name, id)?,
            given,
        })
    }

    /// Checks the options of the workers that exist at the start, beginning with this id. Returns the
    /// id after the last one.
    pub(crate) fn check_options(&self, first: u32) -> Result<u32, Error> {
        let after = first.saturating_add(self.spec.size);
        (first..after)
            .map(WorkerId)
            .try_for_each(|id| check(self.given_options(id, FIRST)?, &self.name, id).map(drop))?;
        Ok(after)
    }

    fn given_options(&self, id: WorkerId, generation: u32) -> Result<WorkerOptions, Error> {
        let Some(options) = &self.options else { return Ok(WorkerOptions::default()) };
        OPTIONS
            .call(|| options(generation, id.0))
            .map_err(|panicked| self.unknown_setup(id, panicked))
    }

    fn encoded_context(&self, id: WorkerId, generation: u32) -> Result<Vec<u8>, Error> {
        let encoded = CONTEXT.call(|| (self.context.encode)(generation, id.0));
        encoded.map_err(|panicked| self.unknown_setup(id, panicked))?
    }

    #[cold]
    fn unknown_setup(&self, id: WorkerId, panicked: Panicked) -> Error {
        let message = format!("what worker {id} of group `{}` starts with is not known", self.name);
        Error::new(ErrorKind::Program, message).caused_by(panicked)
    }

    /// Returns the command line of one worker; its id shows in `ps`.
    pub(crate) fn command(
        &self,
        id: WorkerId,
        its: &WorkerSetup,
        image: Option<Arc<OwnedFd>>,
    ) -> Result<Command, Error> {
        let (program, mut arguments) = match &self.program {
            // By this name the kernel starts the very file that this process runs, even if another
            // version has taken its path and whatever the permissions of its directory.
            WorkerProgram::ThisExecutable => {
                let name = crate::worker::argument(&self.name, id);
                (c_string("/proc/self/exe".into())?, vec![c_string(name.into())?])
            }
            WorkerProgram::Other { path, arguments } => {
                let arguments =
                    arguments.iter().cloned().map(c_string).collect::<Result<_, _>>()?;
                (c_string(path.clone().into_os_string())?, arguments)
            }
        };
        arguments.extend_from_slice(&its.options.arguments);
        let path = Path::new(OsStr::from_bytes(program.as_bytes()));
        let confinement = self.sandbox.as_ref().map(|sandbox| sandbox.confinement(path));
        Ok(Command {
            confinement: confinement.transpose()?,
            program,
            arguments,
            environment: its.options.environment(&self.environment),
            resources: its.options.resources.clone(),
            own_pid: match &self.contact {
                Contact::Command(readiness) => readiness.pid_variables(!self.listeners.is_empty()),
                Contact::Connection(_) => Vec::new(),
            },
            image: image.filter(|_| self.is_same_executable()),
            root: self.root.clone(),
            directory: self.directory.clone(),
            identity: Identity::of(self.credentials.clone()),
        })
    }

    /// Opens the sockets of the workers that exist at the start, beginning with this id, and at least
    /// one socket of each listener. Returns the id after the last worker.
    pub(crate) fn open_listeners(&mut self, first: u32) -> Result<u32, Error> {
        if let Contact::Command(readiness) = &self.contact {
            readiness.open()?;
        }
        let after = first.saturating_add(self.spec.size);
        let Self { listeners, name, .. } = self;
        for id in (first..after.max(first + 1)).map(WorkerId) {
            listeners.iter_mut().try_for_each(|listener| listener.open(name, id))?;
        }
        let has_queue = || listeners.iter().any(|listener| listener.queue().is_some());
        if self.elastic.is_some() && !has_queue() {
            let message = "it can grow with a TCP listener only, whose queue tells the load";
            let message = format!("worker group `{name}`: {message}");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(after)
    }

    /// Returns the sockets for a worker's next process, in the order of their names. Watches those that
    /// can be shut down.
    pub(crate) fn passed(
        &mut self,
        id: WorkerId,
        watch: Option<&Watch>,
    ) -> Result<Vec<BorrowedFd<'_>>, Error> {
        let Self { listeners, name, .. } = self;
        for listener in &mut *listeners {
            let watch = watch.filter(|_| listener.is_watched());
            let socket = listener.socket(name, id)?;
            watch.into_iter().for_each(|watch| watch.add(socket));
        }
        Ok(listeners.iter().flat_map(|listener| listener.for_process(id)).collect())
    }

    /// Makes sockets listen again after a shutdown: those in `shut`, in this order, and others.
    pub(crate) fn look_at_listeners(&mut self, shut: &[RawFd]) {
        let Self { listeners, name, .. } = self;
        for listener in listeners {
            if let Err(error) = listener.look(name, shut) {
                let (group, reason) = (&**name, error.report());
                log_error!(group, listener = listener.name, reason, "nobody can connect");
            }
        }
    }

    /// Returns the number of replacements of listening sockets that workers have.
    pub(crate) fn listeners_replaced(&self) -> u64 {
        self.listeners.iter().map(Listener::replaced).sum()
    }

    /// Returns the open sockets that must be watched for a shutdown.
    pub(crate) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().filter(|listener| listener.is_watched()).flat_map(Listener::all)
    }

    /// Records that the launch for a worker has resulted in this process, or in none.
    pub(crate) fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        self.steered().for_each(|steered| steered.launched(id, pid));
    }

    /// Records that a process has ended: others can have its sockets.
    pub(crate) fn ended(&mut self, id: WorkerId, pid: i32) {
        self.steered().for_each(|steered| steered.ended(id, pid));
    }

    /// Steers new connections to the processes, or workers, that should receive them.
    pub(crate) fn settle_listeners(
        &mut self,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) {
        let Self { listeners, name, .. } = self;
        listeners.iter_mut().for_each(|listener| listener.settle_users(name, &state));
    }

    /// Closes the sockets for connections of a pool that stops. A socket then ends with the last process
    /// that has it: connections that nobody will accept are refused, and not cut later.
    pub(crate) fn stop_listening(&mut self) {
        self.steered().for_each(Steered::end_flows);
        self.listeners.retain(|listener| !listener.is_watched());
    }

    /// Returns whether processes hold flows, whose end is no event.
    pub(crate) fn holds_flows(&mut self) -> bool {
        self.steered().any(|steered| steered.holds_flows())
    }

    /// Returns the processes or workers that stop, or are about to, and have not accepted all their
    /// connections.
    pub(crate) fn backlog(
        &mut self,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) -> Vec<(WorkerId, Option<i32>)> {
        self.steered().flat_map(|steered| steered.backlog(&state)).collect()
    }

    /// Returns why a process cannot serve, if it has changed a socket so that datagrams reach wrong
    /// processes.
    pub(crate) fn spoiled_socket(&self, id: WorkerId, pid: i32) -> Option<String> {
        let spoiled = self.listeners.iter().find(|listener| listener.joins_datagrams(id, pid))?;
        Some(format!(
            "the socket of listener `{}` has UDP_GRO on: packets of one client would go to the wrong \
             process; use a socket type that leaves it off",
            spoiled.name
        ))
    }

    fn steered(&mut self) -> impl Iterator<Item = &mut Steered> {
        self.listeners.iter_mut().filter_map(Listener::steered)
    }

    /// Returns whether its workers use call mode.
    pub(crate) fn has_calls(&self) -> bool {
        !self.contact.is_plain()
    }

    /// Returns the names of the descriptors of a worker: its listeners, then the memory of its metrics.
    pub(crate) fn passed_names(&self) -> Vec<String> {
        let metrics = self.has_metrics.then(|| METRICS.to_owned());
        self.listener_names().into_iter().chain(metrics).collect()
    }

    pub(crate) fn listener_names(&self) -> Vec<String> {
        self.listeners.iter().flat_map(Listener::names).collect()
    }

    /// Returns the types of the messages between workers and master.
    pub(crate) fn spoken(&self) -> GroupTypes {
        GroupTypes {
            name: self.name.to_string(),
            is_plain: self.contact.is_plain(),
            types: self.contact.types(),
        }
    }

    /// Returns the keys of the sockets that the group listens on. Closed sockets are not handed over.
    pub(crate) fn listener_keys(&self) -> impl Iterator<Item = [String; 3]> {
        let open = self.listeners.iter().filter(|listener| listener.is_open());
        open.filter_map(|listener| listener.key(&self.name))
    }

    /// Opens the resources of its processes for a trial, and one socket of each listener that is not
    /// among the known ones.
    pub(crate) fn try_listeners(&mut self, known: &[[String; 3]]) -> Result<(), Error> {
        if let Contact::Command(readiness) = &self.contact {
            readiness.open()?;
        }
        let Self { listeners, name, .. } = self;
        let is_new = |one: &&mut Listener| one.key(name).is_some_and(|key| !known.contains(&key));
        let mut new = listeners.iter_mut().filter(is_new);
        new.try_for_each(|listener| listener.open(name, WorkerId(0)))
    }

    /// Takes over the sockets that an earlier version of the program has opened for this group; at
    /// `any` address, if set.
    pub(crate) fn adopt_listeners(&mut self, kept: &mut Vec<KeptListener>, any: bool) {
        for listener in &mut self.listeners {
            listener.adopt(&self.name, kept, any);
        }
    }

    /// Returns the open sockets, for the next version.
    pub(crate) fn opened_listeners(&self) -> Result<Vec<KeptListener>, Error> {
        let kept = self.listeners.iter().map(|listener| listener.opened(&self.name));
        Ok(kept.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Returns whether master and worker were compiled together.
    pub(crate) fn is_same_executable(&self) -> bool {
        matches!(self.program, WorkerProgram::ThisExecutable)
    }
}

fn check(given: WorkerOptions, group: &str, id: WorkerId) -> Result<CheckedOptions, Error> {
    given.check().map_err(|error| {
        let message = format!("the options of worker {id} of group `{group}`");
        Error::new(ErrorKind::Usage, message).caused_by(error)
    })
}

/// Returns the number of workers that the settings of a generation set, if any.
pub(crate) fn configured_size(
    sizes: Option<&Sizes>,
    generation: u32,
) -> Result<Option<u32>, Error> {
    let size = sizes.map(|size| SIZE.call(|| size(generation))).transpose();
    size.map_err(|panicked| {
        Error::new(ErrorKind::Program, "the number of workers is not known").caused_by(panicked)
    })
}

/// Encodes the context of a worker, and describes its type.
pub(crate) struct Context {
    encode: Box<dyn Fn(u32, u32) -> Result<Vec<u8>, Error> + Send + Sync>,
    message: MessageType,
}

impl Context {
    pub(crate) fn new<T: Serialize + DeserializeOwned>(
        context: impl Fn(u32, u32) -> T + Send + Sync + 'static,
    ) -> Self {
        let encode = move |generation, id| {
            let mut payload = Vec::new();
            Postcard.encode(&context(generation, id), &mut payload).map_err(|error| {
                let message = format!("the context of worker {id} cannot be encoded");
                Error::new(ErrorKind::Usage, message).caused_by(error)
            })?;
            Ok(payload)
        };
        Self { encode: Box::new(encode), message: MessageType::of::<T>(&Postcard) }
    }

    pub(crate) fn message(&self) -> &MessageType {
        &self.message
    }
}

/// The program that the workers of a group run.
#[derive(Clone, Debug)]
pub(crate) enum WorkerProgram {
    ThisExecutable,
    Other { path: PathBuf, arguments: Vec<OsString> },
}

impl WorkerProgram {
    pub(crate) fn is_this(&self) -> bool {
        matches!(self, Self::ThisExecutable)
    }

    /// Returns the name of another program's file.
    pub(crate) fn file_name(&self) -> Option<String> {
        match self {
            Self::ThisExecutable => None,
            Self::Other { path, .. } => Some(path.file_name()?.to_string_lossy().into_owned()),
        }
    }

    /// Makes the path absolute, since the working directory may change before the first worker is
    /// started. A relative path begins at the directory of the workers; its links are followed anew at
    /// each start.
    pub(crate) fn resolve(self, directory: &Path) -> Result<Self, Error> {
        match self {
            Self::ThisExecutable => Ok(self),
            Self::Other { path, arguments } => {
                Ok(Self::Other { path: absolute(&directory.join(path))?, arguments })
            }
        }
    }

    /// Searches a name without a slash in `PATH`, as a shell does, in this root directory.
    pub(crate) fn find(self, root: &Path) -> Result<Self, Error> {
        match self {
            Self::Other { path, arguments }
                if !path.as_os_str().as_encoded_bytes().contains(&b'/') =>
            {
                let question = format!("PATH:{}:{}", root.display(), path.display());
                let path = looked_up(&question, || find(path.as_os_str(), root))?;
                Ok(Self::Other { path, arguments })
            }
            _ => Ok(self),
        }
    }
}

/// Returns the first executable file of this name in the directories of `PATH`.
pub(crate) fn find(name: &OsStr, root: &Path) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let is_program = |file: &PathBuf| {
        let inside = file.strip_prefix("/").map_or_else(|_| file.clone(), |file| root.join(file));
        let metadata = std::fs::metadata(inside);
        metadata.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
    files.find(is_program).ok_or_else(|| {
        let (name, path) = (name.display(), path.display());
        let message = format!("there is no program `{name}` in PATH ({path})");
        Error::new(ErrorKind::Usage, message)
    })
}
