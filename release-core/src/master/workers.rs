//! `Workers`: describes a group of workers.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::group::{Context, Options, Program, Sizes};
use super::settings::Generations;
use crate::ipc::limits::Limits;
use crate::ipc::{Never, Postcard};
use crate::jobs::Follow;
use crate::process::attach::Attach;
use crate::process::connections::Connections;
use crate::process::environment::Environment;
use crate::process::listeners::Listener;
use crate::process::output::Capture;
use crate::process::readiness::Readiness;
use crate::process::stop_signal::StopSignal;
use crate::supervise::{LifeLimits, ReloadPolicy, RestartPolicy};

mod answer;
mod command;
mod into_group;
mod listen;
mod messages;
mod output;
mod process;
mod supervision;

pub(crate) use into_group::IntoGroup;

/// A group of workers: their program, number and user, and the answers of the master to their requests.
///
/// `W` is the type of the master's requests to the workers. Workers use call mode unless
/// [`plain`](Workers::plain) is called.
///
/// If the master is exempt from the out-of-memory killer (`OOMScoreAdjust=-1000`), its workers are not:
/// their `oom_score_adj` is 0 then.
///
/// # Examples
///
/// ```
/// use release_core::Workers;
/// use release_core::ipc::Request;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Next;
/// impl Request for Next {
///     type Response = u64;
/// }
///
/// let workers = Workers::same_executable("http", 4)
///     .user("nobody")
///     .answer(|worker, Next| async move { Ok(u64::from(worker.id)) });
/// # let _ = workers;
/// ```
pub struct Workers<W = Never, C = Postcard> {
    name: String,
    size: u32,
    /// The size that its settings set.
    sizes: Option<Sizes>,
    /// The settings from which anything of it is made.
    settings: Vec<Arc<dyn Generations>>,
    program: Program,
    /// Whether it is a program without this library.
    is_command: bool,
    has_blocking_listeners: bool,
    readiness: Option<Readiness>,
    stop_signal: StopSignal,
    output: Capture,
    user: Option<String>,
    directory: Option<PathBuf>,
    root: Option<PathBuf>,
    primary_group: Option<String>,
    environment: Environment,
    restart: RestartPolicy,
    reload: ReloadPolicy,
    life: LifeLimits,
    heartbeat: Option<Duration>,
    limits: Limits,
    listeners: Vec<Listener>,
    context: Context,
    options: Option<Options>,
    codec: C,
    attach: Option<Arc<dyn Attach>>,
    connections: Connections<W, C>,
    jobs: Option<Arc<dyn Follow>>,
}

impl<W, C> fmt::Debug for Workers<W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// Creates a group whose workers run the same executable as the master;
    /// [`is_worker`](crate::is_worker) tells the processes apart.
    ///
    /// If several groups have their own types, a worker must know its group before it runs: tell it by
    /// an argument. If the types are the same, [`Me::group`](crate::Me::group) or a
    /// [`context`](Workers::context) is enough.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Exit, WorkerOptions, Workers, is_worker};
    ///
    /// # fn web() -> Exit { Exit::success() }
    /// # fn mail() -> Exit { Exit::success() }
    /// # fn master() -> Exit { Exit::success() }
    /// fn group(name: &'static str, size: u32) -> Workers {
    ///     Workers::same_executable(name, size).worker_options(move |_| WorkerOptions::default().argument(name))
    /// }
    ///
    /// fn main() -> Exit {
    ///     match std::env::args().nth(1).as_deref() {
    ///         Some("web") if is_worker() => web(),
    ///         _ if is_worker() => mail(),
    ///         _ => master(), // of group("web", 4) and group("mail", 1)
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn same_executable(name: impl Into<String>, size: u32) -> Self {
        Self::new(name.into(), size, Program::ThisExecutable)
    }

    /// Creates a group whose workers run another program, given by its path, which is also its first
    /// argument.
    ///
    /// The standard input of the program is the IPC socket.
    #[must_use]
    pub fn program<A: Into<OsString>>(
        name: impl Into<String>,
        size: u32,
        path: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let path = path.into();
        let arguments = std::iter::once(path.clone().into_os_string())
            .chain(arguments.into_iter().map(Into::into))
            .collect();
        Self::new(name.into(), size, Program::Other { path, arguments })
    }

    fn new(name: String, size: u32, program: Program) -> Self {
        Self {
            name,
            size,
            sizes: None,
            settings: Vec::new(),
            program,
            is_command: false,
            has_blocking_listeners: false,
            readiness: None,
            stop_signal: StopSignal::default(),
            output: Capture::default(),
            user: None,
            directory: None,
            root: None,
            primary_group: None,
            environment: Environment::default(),
            restart: RestartPolicy::default(),
            reload: ReloadPolicy::default(),
            life: LifeLimits::default(),
            heartbeat: None,
            limits: Limits::IPC,
            listeners: Vec::new(),
            context: Context::new(|_, _| ()),
            options: None,
            codec: Postcard,
            attach: None,
            connections: Connections::default(),
            jobs: None,
        }
    }
}

impl<W, C> Workers<W, C> {
    /// Returns the same group with other message types; before anything depends on them.
    fn with_types<V, D>(self, codec: D) -> Workers<V, D> {
        Workers {
            name: self.name,
            size: self.size,
            sizes: self.sizes,
            settings: self.settings,
            program: self.program,
            is_command: self.is_command,
            has_blocking_listeners: self.has_blocking_listeners,
            readiness: self.readiness,
            stop_signal: self.stop_signal,
            output: self.output,
            user: self.user,
            directory: self.directory,
            root: self.root,
            primary_group: self.primary_group,
            environment: self.environment,
            restart: self.restart,
            reload: self.reload,
            life: self.life,
            heartbeat: self.heartbeat,
            limits: self.limits,
            listeners: self.listeners,
            context: self.context,
            options: self.options,
            codec,
            attach: None,
            connections: Connections::default(),
            jobs: None,
        }
    }
}
