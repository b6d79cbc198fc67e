//! A group of workers that is checked and ready to be run.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::settings::Generations;
use super::upgrade::GroupTypes;
use crate::guard::{Guard, Panicked};
use crate::ipc::hello::{Message, Types};
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Postcard};
use crate::path::c_string;
use crate::process::attach::Attach;
use crate::process::listeners::{KeptListener, Listener, Steered};
use crate::process::options::{CheckedOptions, WorkerOptions};
use crate::process::output::Capture;
use crate::process::readiness::Foreign;
use crate::process::stop_signal::StopSignal;
use crate::supervise::{GroupSpec, LifeLimits, State, WorkerId};
use crate::sys::creds::Credentials;
use crate::sys::spawn::{Command, Identity};
use crate::{Error, ErrorKind};

mod program;

pub(crate) use program::Program;

const SIZE: Guard = Guard::new("size_from");
const OPTIONS: Guard = Guard::new("worker_options");
/// Before any generation is tried: the value of settings is the one in force.
pub(crate) const FIRST: u32 = 0;

const CONTEXT: Guard = Guard::new("context");

/// A group that is checked and ready to be run.
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) contact: Contact,
    pub(crate) stop_signal: StopSignal,
    pub(crate) output: Option<Capture>,
    pub(crate) limits: Limits,
    pub(crate) spec: GroupSpec,
    pub(crate) program: Program,
    pub(crate) environment: Vec<CString>,
    /// The working directory of the workers, and their root directory.
    pub(crate) directory: Option<CString>,
    pub(crate) root: Option<CString>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) context: Context,
    pub(crate) options: Option<Options>,
    /// The size that its settings set, and all settings that anything of it is made from.
    pub(crate) sizes: Option<Sizes>,
    pub(crate) settings: Vec<Arc<dyn Generations>>,
}

impl Contact {
    fn is_plain(&self) -> bool {
        match self {
            Self::Connection(attach) => !attach.says_ready(),
            Self::Foreign(_) => true,
        }
    }

    /// The messages between master and workers.
    fn types(&self) -> Types {
        match self {
            Self::Connection(attach) => attach.types().clone(),
            Self::Foreign(_) => Types::none(),
        }
    }
}

impl fmt::Debug for dyn Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attach")
    }
}

/// How master and workers have to do with each other.
pub(crate) enum Contact {
    /// Over a connection, which is their standard input.
    Connection(Arc<dyn Attach>),
    Foreign(Foreign),
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The number of workers, made from their generation.
pub(crate) type Sizes = Box<dyn Fn(u32) -> u32 + Send + Sync>;

/// The options of one worker, made from its generation and identity.
pub(crate) type Options = Box<dyn Fn(u32, u32) -> WorkerOptions + Send + Sync>;

/// Context and options of a worker: shared by all its processes of a generation, and by no other worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Particulars {
    pub(crate) context: Vec<u8>,
    pub(crate) context_type: Message,
    given: WorkerOptions,
    #[serde(skip)]
    options: CheckedOptions,
}

impl Particulars {
    /// The setup of a worker that the previous version of the program has started.
    pub(crate) fn checked(mut self) -> Result<Self, Error> {
        self.options = self.given.clone().check()?;
        Ok(self)
    }
}

impl Group {
    pub(crate) fn spec(&self) -> GroupSpec {
        self.spec.clone()
    }

    pub(crate) fn life(&self) -> &LifeLimits {
        &self.spec.life
    }

    /// Whether it is looked at regularly: its processes have limits of what they use, or are watched, and
    /// a master that watches others says when it was held up itself.
    pub(crate) fn is_measured(&self) -> bool {
        let life = self.life();
        life.counts_requests() || life.weighs_memory() || self.limits.pulse.is_some()
    }

    /// Returns the setup of one worker: its context, and the options of its processes.
    pub(crate) fn particulars(&self, id: WorkerId, generation: u32) -> Result<Particulars, Error> {
        let given = self.given_options(id, generation)?;
        Ok(Particulars {
            context: self.encoded_context(id, generation)?,
            context_type: self.context.message.clone(),
            options: check(given.clone(), &self.name, id)?,
            given,
        })
    }

    /// Checks the options of the workers that will be there at the start, the first with this
    /// identity; returns the identity after the last one.
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
            .map_err(|panicked| self.no_particulars(id, panicked))
    }

    fn encoded_context(&self, id: WorkerId, generation: u32) -> Result<Vec<u8>, Error> {
        let encoded = CONTEXT.call(|| (self.context.encode)(generation, id.0));
        encoded.map_err(|panicked| self.no_particulars(id, panicked))?
    }

    #[cold]
    fn no_particulars(&self, id: WorkerId, panicked: Panicked) -> Error {
        let message = format!("what worker {id} of group `{}` starts with is not known", self.name);
        Error::new(ErrorKind::Program, message).caused_by(panicked)
    }

    /// The command line of one worker; its identity shows in `ps`.
    pub(crate) fn command(
        &self,
        id: WorkerId,
        its: &Particulars,
        image: Option<Arc<OwnedFd>>,
    ) -> Result<Command, Error> {
        let (program, mut arguments) = match &self.program {
            // By this name the kernel starts the very file that this process runs, even when
            // another version has taken its path meanwhile, and whoever may enter its directory.
            Program::ThisExecutable => {
                let name = crate::worker::argument(&self.name, id);
                (c_string("/proc/self/exe".into())?, vec![c_string(name.into())?])
            }
            Program::Other { path, arguments } => {
                let arguments =
                    arguments.iter().cloned().map(c_string).collect::<Result<_, _>>()?;
                (c_string(path.clone().into_os_string())?, arguments)
            }
        };
        arguments.extend_from_slice(&its.options.arguments);
        Ok(Command {
            program,
            arguments,
            environment: its.options.environment(&self.environment),
            resources: its.options.resources.clone(),
            own_pid: match &self.contact {
                Contact::Foreign(foreign) => foreign.pid_variables(!self.listeners.is_empty()),
                Contact::Connection(_) => Vec::new(),
            },
            image: image.filter(|_| self.is_same_executable()),
            root: self.root.clone(),
            directory: self.directory.clone(),
            identity: self.identity(),
        })
    }

    /// Root may run commands as itself, with all that it may.
    fn identity(&self) -> Identity {
        match &self.credentials {
            Some(credentials) => Identity::Other(credentials.clone()),
            None if nix::unistd::geteuid().is_root() => Identity::Same,
            None => Identity::Powerless,
        }
    }

    /// Opens the sockets of the workers that will be there at the start, the first with this
    /// identity, and at least one of each listener; returns the identity after the last worker.
    pub(crate) fn open_listeners(&mut self, first: u32) -> Result<u32, Error> {
        if let Contact::Foreign(foreign) = &self.contact {
            foreign.open()?;
        }
        let after = first.saturating_add(self.spec.size);
        let Self { listeners, name, .. } = self;
        for id in (first..after.max(first + 1)).map(WorkerId) {
            listeners.iter_mut().try_for_each(|listener| listener.open(name, id))?;
        }
        Ok(after)
    }

    /// The listening sockets that a worker's next process gets, in the order of their names.
    pub(crate) fn passed(&mut self, id: WorkerId) -> Result<Vec<BorrowedFd<'_>>, Error> {
        let Self { listeners, name, .. } = self;
        listeners.iter_mut().map(|listener| Ok(listener.socket(name, id)?.as_fd())).collect()
    }

    /// Has sockets listen again that somebody has shut down: those in `shut`, in this order, and others.
    pub(crate) fn look_at_listeners(&mut self, shut: &[RawFd]) {
        let Self { listeners, name, .. } = self;
        for listener in listeners {
            if let Err(error) = listener.look(name, shut) {
                let (group, reason) = (&**name, error.report());
                tracing::error!(group, listener = listener.name, reason, "nobody can connect");
            }
        }
    }

    /// How often a listening socket that workers have was replaced by another one.
    pub(crate) fn listeners_replaced(&self) -> u64 {
        self.listeners.iter().map(Listener::replaced).sum()
    }

    /// The listening sockets that are open.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().flat_map(Listener::all)
    }

    /// The launch for a worker has resulted in this process, or in none.
    pub(crate) fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        self.steered().for_each(|steered| steered.launched(id, pid));
    }

    /// A process has ended: others can have its sockets.
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

    /// The processes or workers that stop or are about to, and have not accepted all that they were
    /// given.
    pub(crate) fn backlog(
        &mut self,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) -> Vec<(WorkerId, Option<i32>)> {
        self.steered().flat_map(|steered| steered.backlog(&state)).collect()
    }

    fn steered(&mut self) -> impl Iterator<Item = &mut Steered> {
        self.listeners.iter_mut().filter_map(Listener::steered)
    }

    pub(crate) fn listener_names(&self) -> Vec<String> {
        self.listeners.iter().map(|listener| listener.name.clone()).collect()
    }

    /// Types of the messages between workers and master.
    pub(crate) fn spoken(&self) -> GroupTypes {
        GroupTypes {
            name: self.name.to_string(),
            is_plain: self.contact.is_plain(),
            types: self.contact.types(),
        }
    }

    /// The sockets that the group listens on: a closed one is not handed over.
    pub(crate) fn listener_keys(&self) -> impl Iterator<Item = [String; 3]> {
        let open = self.listeners.iter().filter(|listener| listener.is_open());
        open.filter_map(|listener| listener.key(&self.name))
    }

    /// Opens, for a trial, what its processes need, and one socket of each listener that is not among those.
    pub(crate) fn try_listeners(&mut self, known: &[[String; 3]]) -> Result<(), Error> {
        if let Contact::Foreign(foreign) = &self.contact {
            foreign.open()?;
        }
        let Self { listeners, name, .. } = self;
        let is_new = |one: &&mut Listener| one.key(name).is_some_and(|key| !known.contains(&key));
        let mut new = listeners.iter_mut().filter(is_new);
        new.try_for_each(|listener| listener.open(name, WorkerId(0)))
    }

    /// Takes the sockets over that an earlier version of the program has opened for this group; at
    /// `any` address.
    pub(crate) fn adopt_listeners(&mut self, kept: &mut Vec<KeptListener>, any: bool) {
        for listener in &mut self.listeners {
            listener.adopt(&self.name, kept, any);
        }
    }

    /// The sockets that are open, for the next version.
    pub(crate) fn opened_listeners(&self) -> Result<Vec<KeptListener>, Error> {
        let kept = self.listeners.iter().map(|listener| listener.opened(&self.name));
        Ok(kept.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Whether master and worker were compiled together.
    pub(crate) fn is_same_executable(&self) -> bool {
        matches!(self.program, Program::ThisExecutable)
    }
}

fn check(given: WorkerOptions, group: &str, id: WorkerId) -> Result<CheckedOptions, Error> {
    given.check().map_err(|error| {
        let message = format!("the options of worker {id} of group `{group}`");
        Error::new(ErrorKind::Usage, message).caused_by(error)
    })
}

/// The number of workers that the settings of a generation set, if any.
pub(crate) fn configured_size(
    sizes: Option<&Sizes>,
    generation: u32,
) -> Result<Option<u32>, Error> {
    let size = sizes.map(|size| SIZE.call(|| size(generation))).transpose();
    size.map_err(|panicked| {
        Error::new(ErrorKind::Program, "the number of workers is not known").caused_by(panicked)
    })
}

/// How the context of a worker is made, and its type.
pub(crate) struct Context {
    encode: Box<dyn Fn(u32, u32) -> Result<Vec<u8>, Error> + Send + Sync>,
    message: Message,
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
        Self { encode: Box::new(encode), message: Message::of::<T>(&Postcard) }
    }

    pub(crate) fn message(&self) -> &Message {
        &self.message
    }
}
