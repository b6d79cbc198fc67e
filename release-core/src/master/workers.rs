//! `Workers`: describes a group of workers.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::group::{Context, Options, Sizes, WorkerProgram};
use super::settings::Generations;
use crate::ipc::limits::Limits;
use crate::ipc::{Never, Postcard};
use crate::jobs::Follow;
use crate::process::attach::Attach;
use crate::process::connections::Connections;
use crate::process::hand_on::HandOnLimits;
use crate::process::listeners::Listener;
use crate::process::output::Capture;
use crate::supervise::{LifeLimits, ReloadPolicy, RestartPolicy};
use crate::{Environment, Readiness, Sandbox, Settings, StopSignal, WorkerOptions};

mod channels;
mod command;
mod communication;
mod datagrams;
mod elastic;
mod hand_on;
mod into_group;
mod sandbox;

pub(crate) use into_group::IntoGroup;
pub(in crate::master) use into_group::replace_group;

/// Bounds of a heartbeat: an executor has other tasks, and instants must not overflow.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(20);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A group of workers: their program, number and user, and the answers of the master to their requests.
///
/// `W` is the type of the master's requests to the workers. Workers use call mode unless
/// [`plain`](Workers::plain) is called. Workers without any messages need no handler.
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
    spec: GroupOptions,
    codec: C,
    attach: Option<Arc<dyn Attach>>,
    /// Sets a handler if there is none; not known for every codec.
    without_handler: Option<fn(Self) -> Self>,
    connections: Connections<W, C>,
}

/// Everything about a group except the types of its messages.
struct GroupOptions {
    name: String,
    size: u32,
    /// Makes the size from settings.
    sizes: Option<Sizes>,
    /// The settings that any of these is made from.
    settings: Vec<Arc<dyn Generations>>,
    program: WorkerProgram,
    /// Whether a handler was set before the types of the messages were.
    has_lost_handler: bool,
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
    sandbox: Option<Sandbox>,
    environment: Environment,
    restart: RestartPolicy,
    reload: ReloadPolicy,
    life: LifeLimits,
    after: Vec<String>,
    grow_to: Option<u32>,
    heartbeat: Option<Duration>,
    limits: Limits,
    listeners: Vec<Listener>,
    has_metrics: bool,
    context: Context,
    options: Option<Options>,
    jobs: Option<Arc<dyn Follow>>,
    hand_on: Option<HandOnLimits>,
    channel_to: Vec<String>,
}

impl<W, C> fmt::Debug for Workers<W, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("name", &self.spec.name)
            .field("size", &self.spec.size)
            .field("program", &self.spec.program)
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
        Self::new(name.into(), size, WorkerProgram::ThisExecutable)
    }

    /// Creates a group whose workers run another program, given by its path, which is also its first
    /// argument.
    ///
    /// The standard input of the program is the IPC socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::program("mail", 2, "/usr/lib/mail/worker", ["-v"])
    ///     .user("mail")
    ///     .answer(|worker, text: String| async move { Ok(format!("{text}, {}", worker.id)) });
    /// # let _ = workers;
    /// ```
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
        Self::new(name.into(), size, WorkerProgram::Other { path, arguments })
    }

    fn new(name: String, size: u32, program: WorkerProgram) -> Self {
        let spec = GroupOptions {
            name,
            size,
            sizes: None,
            settings: Vec::new(),
            program,
            has_lost_handler: false,
            is_command: false,
            has_blocking_listeners: false,
            readiness: None,
            stop_signal: StopSignal::default(),
            output: Capture::default(),
            user: None,
            directory: None,
            root: None,
            primary_group: None,
            sandbox: None,
            environment: Environment::default(),
            restart: RestartPolicy::default(),
            reload: ReloadPolicy::default(),
            life: LifeLimits::default(),
            after: Vec::new(),
            grow_to: None,
            heartbeat: None,
            limits: Limits::IPC,
            listeners: Vec::new(),
            has_metrics: false,
            context: Context::new(|_, _| ()),
            options: None,
            jobs: None,
            hand_on: None,
            channel_to: Vec::new(),
        };
        Self {
            spec,
            codec: Postcard,
            attach: None,
            without_handler: Some(communication::asks_nothing),
            connections: Connections::default(),
        }
    }
}

impl<W, C> Workers<W, C> {
    /// Sets the account of the workers, by its login name, for a root master. The workers of a master
    /// that is not root run as the master's user.
    ///
    /// Workers have exactly the groups of the account. A worker cannot become root again, which is verified.
    ///
    /// Numbers are accepted, too, for containers and images without accounts: `1000:1001` is that user
    /// and that group, without other groups; `1000` is the account of that number with its groups, or
    /// else the user and the group 1000. Without an account the home is `/`, and the user has no name.
    ///
    /// A root master with few capabilities needs `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL` for workers
    /// of another user. Before each of them runs its program, the master checks that it can end it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).user("www-data");
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.spec.user = Some(login.into());
        self
    }

    /// Replaces the primary group of the workers' [`user`](Workers::user); they keep the other groups
    /// of that account.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).user("www-data").group("ssl-cert");
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.spec.primary_group = Some(name.into());
        self
    }

    /// Sets the working directory of the workers. By default it is the master's, and for a
    /// [`command`](Workers::command) the directory that the master was started in, under its name in
    /// the shell (`PWD`).
    ///
    /// The path is resolved again for each process: if a deployment points a symbolic link in it to
    /// another release, a reload starts workers there. Relative paths of programs are resolved in this
    /// directory, in the same way. A relative directory begins at the directory that the master was
    /// started in.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// // `ln -sfn releases/2 /srv/app/current`, then a reload: the workers run that release.
    /// let workers = Workers::command("app", 4, "./server", ["--port=8080"])
    ///     .directory("/srv/app/current")
    ///     .user("www-data");
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.spec.directory = Some(path.into());
        self
    }

    /// Makes a directory the root of the file system for the workers of a root master. Requires
    /// [`user`](Workers::user), whose account is looked up before, outside the directory, as is the
    /// time zone.
    ///
    /// The directory and all above it must belong to root and must not be writable by others. Programs
    /// other than the master's own must be inside, with all the files that they load: their path is a
    /// path in the new root. Workers of the [same executable](Workers::same_executable) start before
    /// they enter it, and need nothing there; they enter it when they call [`me`](crate::me), and have
    /// the capability for it until then.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).user("www-data").chroot("/var/empty");
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spec.root = Some(directory.into());
        self
    }

    /// Sets the workers' environment. The default is [`Environment::default`], and the master's
    /// environment for a [`command`](Workers::command).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Environment, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4)
    ///     .environment(Environment::keep(["PATH", "LANG"]).set("MODE", "production"));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.spec.environment = environment;
        self
    }

    /// Makes the number of workers a function of [`Settings`]; the number in the constructor of the
    /// group is not used then.
    ///
    /// The number is in force when the new generation serves, and the reload is answered when the group
    /// has it. Of the settings and [`MasterHandle::scale`](crate::MasterHandle::scale) (or TTIN, TTOU)
    /// the last change of the number wins, also after reloads and upgrades. A new worker that fails
    /// before it is ready fails the reload with that reason: the new generation serves then, with as
    /// many workers as before, and the next reload tries the number again. More than 10,000 workers
    /// refuse the reload.
    ///
    /// # Panics
    ///
    /// A panic in `size` refuses the reload, or the start of the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings, Workers};
    ///
    /// let settings = Settings::new(4, |size| Ok::<u32, Error>(size + 1));
    /// let workers = Workers::same_executable("http", 4).size_from(&settings, |size| *size);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn size_from<S: Send + Sync + 'static>(
        mut self,
        settings: &Settings<S>,
        size: impl Fn(&S) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.spec.settings.push(settings.shared());
        let settings = settings.clone();
        self.spec.sizes =
            Some(Box::new(move |generation| size(&settings.of_generation(generation))));
        self
    }

    /// Sets the typed context that each worker receives at its start, made from its id.
    ///
    /// It is made once for each worker and generation, at the first start: a worker that dies is
    /// restarted with the same context, and a worker of a new generation receives a new one. Use
    /// [`context_from`](Workers::context_from) for a context that depends on the configuration of your
    /// program.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// // Each worker learns its part of the data: `Me::context` returns it.
    /// let workers = Workers::same_executable("shard", 4).context(|id| (id, format!("/srv/data/{id}")));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn context<T: Serialize + DeserializeOwned>(
        mut self,
        context: impl Fn(u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.spec.context = Context::new(move |_, id| context(id));
        self
    }

    /// Sets the typed context that each worker receives at its start, made from the [`Settings`] of its
    /// own generation and its id.
    ///
    /// Like [`context`](Workers::context), it is made once for each worker and generation.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Settings, Workers};
    ///
    /// let settings = Settings::new(String::new(), |_| std::fs::read_to_string("/etc/motto"));
    /// let workers = Workers::same_executable("motto", 4)
    ///     .context_from(&settings, |motto, id| format!("{motto}, worker {id}"));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn context_from<S: Send + Sync + 'static, T: Serialize + DeserializeOwned>(
        mut self,
        settings: &Settings<S>,
        context: impl Fn(&S, u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.spec.settings.push(settings.shared());
        let settings = settings.clone();
        self.spec.context =
            Context::new(move |generation, id| context(&settings.of_generation(generation), id));
        self
    }

    /// Sets the options of each worker: arguments, environment, processors, priority and limits, made
    /// from the worker's id. By default a worker has no options.
    ///
    /// Like the [`context`](Workers::context), options are made once for each worker and generation.
    /// The options of the first workers are made once more before anything is started, to be checked. A
    /// worker whose options are invalid later on is not started, and the log contains the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Resource, WorkerOptions, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4).worker_options(|id| {
    ///     WorkerOptions::default()
    ///         .argument(format!("--port={}", 8000 + id))
    ///         .variable("SHARD", id.to_string())
    ///         .processors([id])
    ///         .nice(5)
    ///         .limit(Resource::OpenFiles, 1024, 4096)
    /// });
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "rtsOptions")]
    #[doc(alias = "each")]
    pub fn worker_options(
        mut self,
        options: impl Fn(u32) -> WorkerOptions + Send + Sync + 'static,
    ) -> Self {
        self.spec.options = Some(Box::new(move |_, id| options(id)));
        self
    }

    /// Sets the options of each worker, made from the [`Settings`] of its own generation and its id;
    /// see [`worker_options`](Workers::worker_options).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings, WorkerOptions, Workers};
    ///
    /// let settings = Settings::new(5, |_| Ok::<i32, Error>(10));
    /// let workers = Workers::same_executable("batch", 4)
    ///     .worker_options_from(&settings, |nice, _| WorkerOptions::default().nice(*nice));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn worker_options_from<S: Send + Sync + 'static>(
        mut self,
        settings: &Settings<S>,
        options: impl Fn(&S, u32) -> WorkerOptions + Send + Sync + 'static,
    ) -> Self {
        self.spec.settings.push(settings.shared());
        let settings = settings.clone();
        self.spec.options =
            Some(Box::new(move |generation, id| options(&settings.of_generation(generation), id)));
        self
    }

    /// Sets when workers that die are restarted.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Workers;
    /// use release_core::supervise::RestartPolicy;
    ///
    /// let policy = RestartPolicy::default().backoff(Duration::from_millis(100), Duration::from_secs(10));
    /// let workers = Workers::same_executable("http", 4).restart(policy);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.spec.restart = policy;
        self
    }

    /// Sets how the processes are replaced in a reload.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::supervise::ReloadPolicy;
    ///
    /// // All workers are replaced at the same time.
    /// let workers = Workers::same_executable("http", 4).reload(ReloadPolicy::default().surge(4));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn reload(mut self, policy: ReloadPolicy) -> Self {
        self.spec.reload = policy;
        self
    }

    /// Starts the workers after those of another group: once each of these has been ready, or has ended
    /// and is not restarted. Only the start of the master is in order. May be called again.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Workers};
    ///
    /// let master = Master::new()
    ///     .workers(Workers::same_executable("http", 4).after("database"))
    ///     .workers(Workers::command("database", 1, "/usr/sbin/database", [""; 0]));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn after(mut self, group: impl Into<String>) -> Self {
        self.spec.after.push(group.into());
        self
    }

    /// Sets the limits of a process: by time, by requests and by memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::supervise::LifeLimits;
    ///
    /// let limits = LifeLimits::default().max_requests(10_000);
    /// let workers = Workers::same_executable("http", 4).life(limits);
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "max_requests")]
    pub fn life(mut self, limits: LifeLimits) -> Self {
        self.spec.life = limits;
        self
    }

    /// Kills a worker that hangs, and restarts it under its [`restart`](Workers::restart) policy. A
    /// worker hangs if its executor has not answered the master for this time, because something blocks
    /// it, or if it has not finished a request ([`Me::begin_work`](crate::Me::begin_work)) for this
    /// time. There is no heartbeat by default; the minimum is 20 ms.
    ///
    /// The master sends at least four heartbeats in this time, so a hanging worker is found after one
    /// and a half times this time at the latest. Heartbeats are sent from the moment that the worker is
    /// ready until it is told to stop. An executor with several threads, such as async-std's, answers
    /// while any of them is free: requests in flight show blocked work on the rest.
    ///
    /// A [`command`](Workers::command) reports unasked: from its `READY=1` on it must send `WATCHDOG=1`
    /// to its `NOTIFY_SOCKET` within this time, which `WATCHDOG_USEC` tells it, as systemd services do.
    /// This requires [`Readiness::Notify`](crate::Readiness::Notify).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).heartbeat(Duration::from_secs(30));
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "watchdog")]
    pub fn heartbeat(mut self, timeout: Duration) -> Self {
        self.spec.heartbeat = Some(timeout.clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT));
        self
    }
}
