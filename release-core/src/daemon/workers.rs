//! `Workers`: a group of workers, as the master's program describes it (rows R2, P1, P7).

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::attach::{Attach, Calls, Plain, Rules};
use super::connections::Connections;
use super::group::{Context, Each, Program};
use super::hello::Types;
use super::listeners::Listener;
use super::options::WorkerOptions;
use super::output::Sink;
use super::{Environment, Permit, Readiness, StopSignal};
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Never, Postcard, Refused, Request};
use crate::net::{Inet, ListenOn};
use crate::supervise::{LifeLimits, ReloadPolicy, RestartPolicy};

mod command;
mod into_group;

pub(super) use into_group::IntoGroup;

/// What a heartbeat may be: an executor has other things to do, and instants do not overflow.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(20);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// One of the running workers, as its master knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its identity, kept over restarts; unique in the whole master.
    pub id: u32,
    /// Its process.
    pub pid: i32,
    /// The name of its group.
    pub group: Arc<str>,
    /// The generation of this process.
    pub generation: u32,
}

/// A group of workers: which program, how many, under which user, and what the master answers them.
///
/// `W` is what the master may ask the workers. Workers speak call mode unless
/// [`plain`](Workers::plain) says otherwise.
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
    program: Program,
    /// A program that knows nothing of this library.
    is_command: bool,
    readiness: Option<Readiness>,
    stop_signal: StopSignal,
    output: Option<Sink>,
    user: Option<String>,
    primary_group: Option<String>,
    environment: Environment,
    restart: RestartPolicy,
    reload: ReloadPolicy,
    life: LifeLimits,
    heartbeat: Option<Duration>,
    limits: Limits,
    listeners: Vec<Listener>,
    context: Context,
    options: Option<Each>,
    codec: C,
    attach: Option<Arc<dyn Attach>>,
    connections: Connections<W, C>,
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
    /// Workers that run this very executable again; [`is_worker`](crate::is_worker) tells the
    /// processes apart.
    #[must_use]
    pub fn same_executable(name: impl Into<String>, size: u32) -> Self {
        Self::new(name.into(), size, Program::ThisExecutable)
    }

    /// Workers that run another program, given by its path; the first argument it gets is its path.
    ///
    /// Its standard input is the IPC socket.
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
            program,
            is_command: false,
            readiness: None,
            stop_signal: StopSignal::default(),
            output: None,
            user: None,
            primary_group: None,
            environment: Environment::default(),
            restart: RestartPolicy::default(),
            reload: ReloadPolicy::default(),
            life: LifeLimits::default(),
            heartbeat: None,
            limits: Limits::IPC,
            listeners: Vec::new(),
            context: Context::new(|_| ()),
            options: None,
            codec: Postcard,
            attach: None,
            connections: Connections::default(),
        }
    }

    /// What the master may ask these workers, or tell them by a notice: see
    /// [`Workers::connections`]. Say this before [`answer`](Workers::answer) or
    /// [`plain`](Workers::plain).
    #[must_use]
    pub fn requests<W: Request>(self) -> Workers<W> {
        self.with_types(Postcard)
    }
}

impl<W, C> Workers<W, C> {
    /// The same group with other message types; before anything depends on them.
    fn with_types<V, D>(self, codec: D) -> Workers<V, D> {
        Workers {
            name: self.name,
            size: self.size,
            program: self.program,
            is_command: self.is_command,
            readiness: self.readiness,
            stop_signal: self.stop_signal,
            output: self.output,
            user: self.user,
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
        }
    }

    /// Another codec than postcard. Say this before [`answer`](Workers::answer).
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Workers<W, D> {
        self.with_types(codec)
    }

    /// The login name that workers run as when the master is root. A master that is not root can
    /// give away nothing: its workers run as itself.
    ///
    /// Groups are those of that user, exactly; root cannot be regained, and that is verified.
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// The group that workers run as instead of the primary one of their [`user`](Workers::user);
    /// they keep the others of that user.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.primary_group = Some(name.into());
        self
    }

    /// What is in the workers' environment.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// When workers that die are started again.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// How their processes are replaced when the master reloads.
    #[must_use]
    pub fn reload(mut self, policy: ReloadPolicy) -> Self {
        self.reload = policy;
        self
    }

    /// How long their processes live at most, by time, by work and by memory.
    #[must_use]
    #[doc(alias = "max_requests")]
    pub fn life(mut self, limits: LifeLimits) -> Self {
        self.life = limits;
        self
    }

    /// Kills a worker that hangs, and starts it again under its [`restart`](Workers::restart) policy:
    /// one whose executor has not answered the master for this time, because something blocks it, or
    /// that has not finished a unit of work ([`Me::begin_work`](crate::Me::begin_work)) for this time.
    /// None by default, and at least 20 ms.
    ///
    /// The master asks at least four times in this time, so what hangs is found after one and a half
    /// of it at the latest. It does so from the moment that the worker is ready until it is told to
    /// stop. An executor with several threads, such as that of async-std, answers as long as one of
    /// them is free: units of work show what hangs on the others.
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
        self.heartbeat = Some(timeout.clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT));
        self
    }

    /// The longest message between master and workers, in bytes; 16 MiB by default. Workers of this
    /// library have the same setting: [`Worker::frame_limit`](crate::Worker::frame_limit).
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// Messages between master and workers may hold descriptors (row F), of type
    /// [`Descriptor`](crate::ipc::Descriptor): so many each, at most 253, and so many in all
    /// unanswered requests of one side together, which further ones wait for. None by default.
    ///
    /// Workers of this library have the same setting,
    /// [`Worker::descriptors`](crate::Worker::descriptors). It is what a worker that turned hostile
    /// can make the master hold: the worker dies for one more, and for one where no message has a
    /// place for it. In plain mode there are never any.
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// A listening socket that all workers of the group share, opened by the master as it starts,
    /// as root if need be; they find it by its name with [`Me::listener`](crate::Me::listener).
    ///
    /// An address that cannot be had is a failure of the start, with the reason for whoever started
    /// the master. A socket file has mode 0600, unless [`ListenOn`] says otherwise, and is removed at the
    /// end. For other settings of the socket see [`listener`](Workers::listener).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{Inet, Unix};
    ///
    /// let address: Inet = "0.0.0.0:80".parse()?;
    /// let workers = Workers::same_executable("http", 4)
    ///     .user("www-data")
    ///     .listen("http", address)
    ///     .listen("local", Unix::path("/run/service/http"));
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn listen(mut self, name: impl Into<String>, address: impl Into<ListenOn>) -> Self {
        self.listeners.push(Listener::shared(name.into(), address.into()));
        self
    }

    /// A listening socket for each worker, all with the same address (`SO_REUSEPORT`): the system
    /// gives each connection to one of them, and no worker is woken for the connections of others.
    ///
    /// The master opens them, and keeps a worker's socket while it is started again or replaced:
    /// connections wait there for its next process. That is also the price: they wait though other
    /// workers are idle. When a worker is scaled away, the connections that it has not accepted are
    /// lost; the system gives them to others where `net.ipv4.tcp_migrate_req` is 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::Inet;
    ///
    /// let address: Inet = "[::]:8080".parse()?;
    /// let workers = Workers::same_executable("http", 4).listen_each("http", address);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "SO_REUSEPORT")]
    pub fn listen_each(mut self, name: impl Into<String>, address: Inet) -> Self {
        self.listeners.push(Listener::each(name.into(), address));
        self
    }

    /// A listening socket that the program has opened itself and all workers of the group share; they
    /// find it by its name. [`listen`](Workers::listen) has the master open it.
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> Self {
        self.listeners.push(Listener::given(name.into(), socket.into()));
        self
    }

    /// The typed context that each worker is sent at its start, made from its identity.
    ///
    /// It is made once for each worker and generation, at the first start: a worker that dies comes
    /// back as it was, and one of a new generation sees what has changed, such as a configuration
    /// that [`Master::on_reload`](crate::Master::on_reload) has read.
    #[must_use]
    pub fn context<T: Serialize + DeserializeOwned>(
        mut self,
        context: impl Fn(u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.context = Context::new(context);
        self
    }

    /// What is different from worker to worker: arguments, environment, processors, priority and
    /// limits, made from a worker's identity (rows P2, P8). By default no worker has any.
    ///
    /// Like the [`context`](Workers::context), they are made once for each worker and generation;
    /// those of the first workers once more before anything is started, to be checked. A worker
    /// whose options are wrong later on is not started, with the reason in the log.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Resource, WorkerOptions, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4).each(|id| {
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
    pub fn each(mut self, options: impl Fn(u32) -> WorkerOptions + Send + Sync + 'static) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// The connections to the running workers, for the master's own questions and broadcasts.
    #[must_use]
    pub fn connections(&self) -> Connections<W, C> {
        self.connections.clone()
    }
}

impl<W: Request, C: Codec<W> + Codec<W::Response>> Workers<W, C> {
    /// How the master answers these workers' requests, many at a time.
    #[must_use]
    pub fn answer<R, H, F>(self, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let rules = Rules {
            state: |_: &WorkerInfo| (),
            permit: |(): &(), _: &R| Permit::Granted,
            handler: move |worker, _: Arc<()>, request| handler(worker, request),
        };
        self.attach_calls(rules)
    }

    /// [`answer`](Workers::answer), and which requests are permitted: now, once, or never.
    ///
    /// A worker that was taken over asks what the program that ran in it would not. Every process gets
    /// a state of its own from `state`; `permit` looks at it before `handler` is called, for requests
    /// and notices alike, and the handler changes it as it likes. A worker that asks what is not
    /// permitted is killed and replaced, with the reason in the log, and gets no answer. A handler's
    /// refusal, in contrast, is an answer like others.
    ///
    /// In plain mode a handler that refuses has the same effect.
    ///
    /// When the master upgrades itself in place, the state of every process begins anew: what was
    /// permitted once is so once more, and what a login has opened is closed. Keep in the worker's
    /// requests, or in a file, what has to outlive it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use release_core::{Permit, Workers};
    /// use release_core::ipc::Request;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Ask {
    ///     LogIn { password: String },
    ///     ReadMail,
    ///     Reboot,
    /// }
    /// impl Request for Ask {
    ///     type Response = bool;
    /// }
    ///
    /// #[derive(Default)]
    /// struct Session {
    ///     tried: AtomicBool,
    ///     is_in: AtomicBool,
    /// }
    ///
    /// let workers = Workers::same_executable("mail", 2).user("nobody").answer_permitted(
    ///     |_| Session::default(),
    ///     |session, ask| match ask {
    ///         Ask::LogIn { .. } => {
    ///             let first = !session.tried.swap(true, Ordering::Relaxed);
    ///             Permit::only_if(first, "a second login")
    ///         }
    ///         Ask::ReadMail => {
    ///             Permit::only_if(session.is_in.load(Ordering::Relaxed), "mail before the login")
    ///         }
    ///         Ask::Reboot => Permit::Denied("a worker never reboots"),
    ///     },
    ///     |_worker, session, ask| async move {
    ///         if let Ask::LogIn { password } = &ask {
    ///             session.is_in.store(password == "xyzzy", Ordering::Relaxed);
    ///         }
    ///         Ok(session.is_in.load(Ordering::Relaxed))
    ///     },
    /// );
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn answer_permitted<R, S, H, F>(
        self,
        state: impl Fn(&WorkerInfo) -> S + Send + Sync + 'static,
        permit: impl Fn(&S, &R) -> Permit + Send + Sync + 'static,
        handler: H,
    ) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        S: Send + Sync + 'static,
        H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        self.attach_calls(Rules { state, permit, handler })
    }

    fn attach_calls<R, N, S, P, H, F>(mut self, rules: Rules<N, P, H>) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        N: Fn(&WorkerInfo) -> S + Send + Sync + 'static,
        S: Send + Sync + 'static,
        P: Fn(&S, &R) -> Permit + Send + Sync + 'static,
        H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = Types::of::<(), R, W>();
        let connections = self.connections.clone();
        self.attach = Some(Arc::new(Calls::new(types, self.codec.clone(), rules, connections)));
        self
    }

    /// Workers that speak plain frames, one request at a time, like those of the source and scripts
    /// in other languages. They count as ready as soon as they run.
    #[must_use]
    pub fn plain<R, H, F>(mut self, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        self.attach =
            Some(Arc::new(Plain::new(self.codec.clone(), handler, self.connections.clone())));
        self
    }
}
