//! Communication of a group: listening sockets, messages, answers and output.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Workers;
use crate::guard::Guard;
use crate::ipc::hello::{MessageType, Types};
use crate::ipc::{Codec, Never, Postcard, Refused, Request};
use crate::jobs::Jobs;
use crate::net::{Inet, ListenOn};
use crate::process::attach::{Calls, Plain, Rules};
use crate::process::connections::Connections;
use crate::process::listeners::Listener;
use crate::process::output::{OutputFormat, OutputStream, Sink};
use crate::{Decision, WorkerInfo};

const OUTPUT: Guard = Guard::new("output");

impl Workers {
    /// Sets the type of the master's requests and notices to these workers: see
    /// [`Workers::connections`]. Call this before [`answer`](Workers::answer) or
    /// [`plain`](Workers::plain); otherwise the master refuses to start.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::ipc::Request;
    /// use serde::{Deserialize, Serialize};
    ///
    /// /// Tells a worker to forget its cache.
    /// #[derive(Serialize, Deserialize)]
    /// struct Forget;
    /// impl Request for Forget {
    ///     type Response = ();
    /// }
    ///
    /// let workers = Workers::same_executable("http", 4).requests::<Forget>();
    /// let connections = workers.connections();
    /// # let _ = connections;
    /// ```
    #[must_use]
    pub fn requests<W: Request>(self) -> Workers<W> {
        self.with_types(Postcard)
    }
}

/// Sets the handler of workers that send no requests.
pub(super) fn asks_nothing<W, C>(workers: Workers<W, C>) -> Workers<W, C>
where
    W: Request,
    C: Codec<W> + Codec<W::Response> + Codec<Never> + Codec<()>,
{
    workers.answer(|_, never: Never| async move { match never {} })
}

impl<W, C> Workers<W, C> {
    /// Adds a listening socket that all workers of the group share. The master opens it at the start,
    /// as root if necessary; a worker gets it by its name with [`Me::listener`](crate::Me::listener).
    ///
    /// If the address is not available, the start fails and reports the reason. A socket file has mode
    /// 0600, unless [`ListenOn`] sets another one, and is removed at the end. If it is removed before,
    /// it is created again at the next start of a worker, and a reload gives it to all workers. If a
    /// worker shuts the socket down, it listens again: see [`listen_each`](Workers::listen_each). TCP
    /// sockets have `TCP_NODELAY`, which connections inherit. For other settings of the socket see
    /// [`listener`](Workers::listener).
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
        self.spec.listeners.push(Listener::on(name.into(), address.into()));
        self
    }

    /// Gives each worker its own listening socket on the same address, using `SO_REUSEPORT`. The kernel
    /// distributes new connections among the sockets, so a connection wakes exactly one worker.
    ///
    /// The master opens the sockets and keeps them across restarts: connections wait in them for the
    /// worker's next process. The drawback: connections queued for a busy worker wait even if others
    /// are idle. A worker that is removed by scaling down receives no new connections for a quarter of
    /// a second, and for up to 2.5 s while connections wait that it has not accepted; then it is told
    /// to stop. The address stays the group's even without workers: connections wait for the next
    /// worker.
    ///
    /// In a group of [commands](Workers::command) each *process* has its own socket, and only ready
    /// processes receive new connections. A process that is about to be replaced receives none for the
    /// same time as a worker that is removed. Use it for programs that lose connections that they have
    /// just accepted when they are told to stop, such as uvicorn. Connections that still wait when a
    /// process ends are served by the next process.
    ///
    /// At a stop of the whole pool there is no such wait. Of more than 800 sockets 800 receive
    /// connections. If the kernel cannot steer connections between the sockets, the log says so, and
    /// connections that a worker has not accepted are lost when the worker is removed by scaling down.
    ///
    /// # What the workers can do to each other
    ///
    /// Every process with a socket can shut it down (`shutdown(2)`); a shared socket is then shut down
    /// for all of them. The connections that wait in it are lost. The master notices at once: a TCP
    /// socket listens again, and for a Unix socket another one is opened and the workers with the
    /// former socket are replaced. A worker cannot take the connections of others: the filters of its
    /// socket are locked. It can remove the steering program from the group (`SO_DETACH_REUSEPORT_BPF`)
    /// until the next event of a worker; meanwhile connections go to all sockets. Programs of the
    /// master's user can open sockets at the same port, and disturb it.
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
        self.spec.listeners.push(Listener::on(name.into(), ListenOn::from(address).each()));
        self
    }

    /// Adds a listening socket that your program has opened itself and that all workers of the group
    /// share; a worker gets it by its name. With [`listen`](Workers::listen) the master opens the
    /// socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use release_core::Workers;
    ///
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// let workers = Workers::same_executable("http", 4).listener("http", socket);
    /// # let _ = workers;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> Self {
        self.spec.listeners.push(Listener::given(name.into(), socket.into()));
        self
    }

    /// Sets another codec than [`Postcard`]; workers of this library need the same setting,
    /// [`Worker::codec`](crate::Worker::codec). Call this before [`answer`](Workers::answer); otherwise
    /// the master refuses to start.
    ///
    /// Postcard does not write the names of fields and variants. Types that need them, with serde's
    /// `tag`, `untagged`, `flatten` or `skip_serializing_if`, need a format with names, such as JSON.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::ipc::Text;
    ///
    /// let workers = Workers::same_executable("http", 4)
    ///     .requests::<String>()
    ///     .codec(Text)
    ///     .plain(|_, text: String| async move { Ok(text) });
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Workers<W, D> {
        self.with_types(codec)
    }

    /// Sets the maximum length of a message between master and workers, in bytes; 16 MiB by default.
    /// Workers of this library need the same setting:
    /// [`Worker::frame_limit`](crate::Worker::frame_limit).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).frame_limit(64 * 1024);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.spec.limits = self.spec.limits.with_frame(bytes);
        self
    }

    /// Allows descriptors, of type [`Descriptor`](crate::ipc::Descriptor), in messages between master
    /// and workers: up to `most` in each message, at most 253, and as many in all unanswered requests
    /// of one side together; further requests wait. None are allowed by default.
    ///
    /// Workers of this library need the same setting,
    /// [`Worker::descriptors`](crate::Worker::descriptors). The limit bounds the descriptors that a
    /// compromised worker can make the master hold: the worker is killed for one more, and for one
    /// without a place in its message. Plain mode never has descriptors.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use release_core::Workers;
    /// use release_core::ipc::{Descriptor, Request};
    /// use serde::{Deserialize, Serialize};
    ///
    /// /// Asks for the mail spool, which a worker may not open.
    /// #[derive(Serialize, Deserialize)]
    /// struct OpenSpool;
    /// impl Request for OpenSpool {
    ///     type Response = Descriptor;
    /// }
    ///
    /// let workers = Workers::same_executable("mail", 2)
    ///     .user("nobody")
    ///     .descriptors(1)
    ///     .answer(|_, OpenSpool| async { Ok(Descriptor::new(File::open("/var/spool/mail/all")?)) });
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.spec.limits = self.spec.limits.with_descriptors(most);
        self
    }

    /// Sends messages between master and workers through rings in shared memory, for workers that ask
    /// for them too ([`Worker::ring`](crate::Worker::ring)): one of `bytes` for each direction, rounded
    /// up to a power of two from 4 KiB to 64 MiB. There are none by default, in plain mode and for
    /// workers that do not ask.
    ///
    /// A message through a ring costs a system call only if the other side sleeps. Messages with
    /// descriptors, messages that do not fit into the ring and those behind a full ring go over the
    /// socket, in order. The rings of a worker take twice as many bytes of memory, half of them in the
    /// master, from its start until its connection ends. An upgrade keeps them.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Workers, me};
    ///
    /// let at_the_master = Workers::same_executable("http", 4).user("nobody").ring(64 * 1024);
    /// let in_the_worker = me().ring(64 * 1024);
    /// # let _ = (at_the_master, in_the_worker);
    /// ```
    #[must_use]
    pub fn ring(mut self, bytes: u32) -> Self {
        self.spec.limits = self.spec.limits.with_ring(bytes);
        self
    }

    /// Gives each process of the workers memory for [`metrics`](crate::metrics), which it shares with the
    /// master: 64 KiB, of which the used pages count.
    ///
    /// Also counts the units of work of [`Me::begin_work`](crate::Me::begin_work): `work_finished` and
    /// `work_in_flight`. Workers in plain mode and commands cannot have such memory: the master refuses to
    /// start.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).user("nobody").metrics();
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn metrics(mut self) -> Self {
        self.spec.has_metrics = true;
        self
    }

    /// Returns the connections to the running workers, for requests and broadcasts of the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("http", 4).requests::<String>();
    /// let connections = workers.connections();
    /// // In a task of the master, while the workers run:
    /// let receivers = connections.broadcast(&"the certificate has changed".to_owned());
    /// # assert_eq!(receivers, 0);
    /// ```
    #[must_use]
    pub fn connections(&self) -> Connections<W, C> {
        self.connections.clone()
    }

    /// Returns the same group with other message types; before anything depends on them.
    fn with_types<V, D>(mut self, codec: D) -> Workers<V, D> {
        self.spec.has_lost_handler |= self.attach.is_some();
        let connections = Connections::default();
        Workers { spec: self.spec, codec, attach: None, without_handler: None, connections }
    }

    /// Sets the format of lines that workers write to standard output and standard error, which the master
    /// passes on to its own; [`OutputFormat::Plain`] by default.
    ///
    /// No line is lost: a worker that writes faster than the master's output is read waits until there
    /// is room. The last output of a process is passed on in any case, up to the capacity of its pipe,
    /// before its end is reported.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{OutputFormat, Workers};
    ///
    /// let prefix = |worker: &release_core::WorkerInfo| format!("web {}:", worker.id);
    /// let workers = Workers::command("web", 2, "server", [""; 0])
    ///     .output_format(OutputFormat::Prefixed(prefix));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn output_format(mut self, format: OutputFormat) -> Self {
        self.spec.output.sink = Sink::Streams(format);
        self
    }

    /// Calls `sink` with each line on the standard output and standard error of workers, without the
    /// line end, in place of passing it on to the standard streams of the master.
    ///
    /// The last output of a process is read before its end is reported. The master's supervisor calls
    /// `sink`, which must not block: nothing else happens meanwhile. A panic in it is logged, and the
    /// next line is passed on.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{OutputStream, Workers};
    ///
    /// let workers = Workers::command("web", 1, "server", [""; 0]).output(|worker, stream, line| {
    ///     let line = String::from_utf8_lossy(line);
    ///     match stream {
    ///         OutputStream::Error => tracing::warn!(worker = worker.id, "{line}"),
    ///         _ => tracing::info!(worker = worker.id, "{line}"),
    ///     }
    /// });
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn output(
        mut self,
        sink: impl Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync + 'static,
    ) -> Self {
        self.spec.output.sink = Sink::Lines(Arc::new(move |worker, stream, line| {
            // The next line may be harmless.
            if let Err(panicked) = OUTPUT.call(|| sink(worker, stream, line)) {
                let WorkerInfo { id, pid, .. } = *worker;
                log_error!(worker = id, pid, reason = %panicked, "a line of a worker is lost");
            }
        }));
        self
    }

    /// Sets the maximum length of a line in bytes; 64 KiB by default. Longer lines are split.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::command("web", 2, "server", [""; 0]).line_limit(1000);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn line_limit(mut self, bytes: usize) -> Self {
        self.spec.output.longest = bytes.max(1);
        self
    }

    /// Limits the lines of a process in each second; there is no limit by default. Further lines of
    /// that second are dropped, and the log contains their number.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::command("web", 2, "server", [""; 0]).line_rate(100);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn line_rate(mut self, lines: u32) -> Self {
        self.spec.output.rate = Some(lines);
        self
    }
}

impl<W: Request, C: Codec<W> + Codec<W::Response>> Workers<W, C> {
    /// Sets the handler of these workers' requests, many of which may be in flight. Workers that send
    /// no requests need none, unless [`requests`](Workers::requests) or [`codec`](Workers::codec) is
    /// called.
    ///
    /// Handlers run on the threads of the master's runtime. tokio's and smol's drivers have one thread:
    /// a handler that blocks (name lookups, PAM, slow files) keeps the master from other requests,
    /// signals and the deaths of workers. From one second on the log reports it: "the master was busy
    /// for 3.0 s". Run blocking code in [`Rt::unblock`](crate::rt::Rt::unblock).
    ///
    /// A handler that panics refuses its request.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::ToSocketAddrs;
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("resolver", 2).user("nobody").answer(
    ///     |worker, host: String| async move {
    ///         let look_up = move || (host, 80).to_socket_addrs().map(Iterator::count);
    ///         let found = worker.rt().unblock(look_up).await??;
    ///         Ok(format!("{found} addresses"))
    ///     },
    /// );
    /// # let _ = workers;
    /// ```
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
            permit: |(): &(), _: &R| Decision::Allow,
            handler: move |worker, _: Arc<()>, request| handler(worker, request),
        };
        self.attach_calls(rules)
    }

    /// Sets the handler, like [`answer`](Workers::answer), and decides which requests are permitted:
    /// now, once, or never.
    ///
    /// A compromised worker sends requests that its program would not send. Every process has its own
    /// state, from `state`; `permit` checks that state before `handler` is called, for requests and
    /// notices alike, and the handler may change it. A worker that sends a request that is not
    /// permitted is killed and replaced, with the reason in the log, and receives no answer. A refusal
    /// of the handler, in contrast, is an ordinary answer.
    ///
    /// In plain mode a refusal of the handler has the same effect as a request that is not permitted.
    ///
    /// When the master upgrades itself in place, the state of every process starts again: a request
    /// that was permitted once is permitted once more, and a login is forgotten. Keep state that must
    /// outlive the upgrade in the worker's requests, or in a file.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use release_core::{Decision, Workers};
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
    ///             Decision::only_if(first, "a second login")
    ///         }
    ///         Ask::ReadMail => {
    ///             Decision::only_if(session.is_in.load(Ordering::Relaxed), "mail before the login")
    ///         }
    ///         Ask::Reboot => Decision::Deny("a worker never reboots"),
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
        permit: impl Fn(&S, &R) -> Decision + Send + Sync + 'static,
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
        P: Fn(&S, &R) -> Decision + Send + Sync + 'static,
        H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = self.types::<R>();
        let connections = self.connections.clone();
        self.attach = Some(Arc::new(Calls::new(types, self.codec.clone(), rules, connections)));
        self
    }

    /// Sets the handler of workers that use plain frames, one request at a time, such as workers of the
    /// OCaml library and scripts in other languages. They count as ready as soon as they run.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// let workers = Workers::program("old", 2, "/usr/lib/service/worker", ["-v"])
    ///     .plain(|worker, text: String| async move { Ok(format!("{text} from {}", worker.pid)) });
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn plain<R, H, F>(mut self, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = self.types::<R>();
        let connections = self.connections.clone();
        self.attach = Some(Arc::new(Plain::new(types, self.codec.clone(), handler, connections)));
        self
    }

    /// Returns the types of the requests in both directions.
    fn types<R>(&self) -> Types
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
    {
        Types::of::<R, W, C>(MessageType::of::<()>(&Postcard), &self.codec)
    }
}

impl<W, C> Workers<W, C>
where
    W: Request + Sync,
    C: Codec<W> + Codec<W::Response> + Codec<Never> + Codec<()>,
{
    /// Has these workers carry out the jobs of a pool. Call this after
    /// [`requests`](Workers::requests) and [`codec`](Workers::codec).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// let jobs = Jobs::<String>::new();
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn jobs<P: Send + 'static>(mut self, jobs: &Jobs<W, P>) -> Self {
        self.spec.jobs = Some(jobs.attach(&self.connections));
        self.without_handler = Some(asks_nothing);
        self
    }
}
