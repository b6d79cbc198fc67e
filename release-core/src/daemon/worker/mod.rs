//! `me`: the worker's entry, and what a worker knows (rows R9, P1).

use std::any::type_name;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Serialize, de::DeserializeOwned};

use super::Exit;
use super::exit::program_name;
use super::hello::{Agreed, Hello, Types};
use super::privileges::Privileges;
use super::stopping::{Stop, stop_channel};
use crate::ipc::limits::Limits;
use crate::ipc::link::{Incoming, Link, Mode};
use crate::ipc::plain::Client;
use crate::ipc::serve::{Word, serve};
use crate::ipc::{Codec, Header, Never, Peer, Postcard, Refused, Request, SendError};
use crate::rt::{Driver, Rt, Task, run};
use crate::signals::Signals;
use crate::supervise::WorkerId;
use crate::sys::signal::Caught;
use crate::sys::{fds, process, socket, spawn};
use crate::{Error, ErrorKind};

mod me;
mod work;

pub use me::{Me, PlainMe};
pub use work::Work;
use work::Works;

/// How long the master may take to greet a worker that it has started.
const GREETING_TIME: Duration = Duration::from_secs(30);

/// What the command line of a worker says between the program and its identity.
const ROLE: &str = ": worker ";

/// The whole command line of a worker, as `ps` shows it: `service: worker http id=2`.
pub(crate) fn argument(group: &str, id: WorkerId) -> String {
    format!("{}{ROLE}{group} id={id}", program_name())
}

/// Whether this process was started as a worker by a master that is the same executable (row P1).
///
/// The first thing that `main` asks:
///
/// ```no_run
/// # use release_core::{Exit, Master};
/// # fn worker() -> Exit { Exit::success() }
/// # fn master() -> Exit { Exit::success() }
/// fn main() -> Exit {
///     if release_core::is_worker() { worker() } else { master() }
/// }
/// ```
#[must_use]
pub fn is_worker() -> bool {
    std::env::args_os().next().is_some_and(|name| name.to_string_lossy().contains(ROLE))
}

/// This process as a worker of the master at its standard input; [`run`](Worker::run) goes on from
/// there.
#[must_use]
pub fn me() -> Worker {
    Worker {
        privileges: Privileges::default(),
        limits: Limits::IPC,
        codec: Postcard,
        requests: PhantomData,
    }
}

/// The settings of a worker process: whom it becomes, and how it talks to its master.
#[derive(Clone, Debug)]
#[doc(alias = "me")]
pub struct Worker<C = Postcard> {
    privileges: Privileges,
    limits: Limits,
    codec: C,
    requests: PhantomData<fn()>,
}

impl<C> Worker<C> {
    /// The login name this process becomes when it runs as root: its groups, then its user, each
    /// checked, and with no way back. A process that does not run as root must be this user already.
    ///
    /// Not needed when the master's [`Workers::user`](crate::Workers::user) has done it before this
    /// program began.
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.privileges.user = Some(login.into());
        self
    }

    /// Only these groups instead of all that the user has: an empty list leaves the primary group.
    #[must_use]
    pub fn groups<G: Into<String>>(mut self, groups: impl IntoIterator<Item = G>) -> Self {
        self.privileges.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Makes a directory the root of the file system for this process. Needs [`user`](Worker::user).
    ///
    /// The directory and all above it must belong to root and be writable by nobody else.
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.privileges.root = Some(directory.into());
        self
    }

    /// [`chroot`](Worker::chroot) to the user's home, as the source does.
    #[must_use]
    pub fn chroot_home(mut self) -> Self {
        self.privileges.root_is_home = true;
        self
    }

    /// The longest message to and from the master, in bytes; 16 MiB by default. The master's group
    /// must say the same ([`Workers::frame_limit`](crate::Workers::frame_limit)): a worker that
    /// differs says so and ends.
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// How long a call to the master looks for its answer before it sleeps: at most a millisecond,
    /// and not at all by default.
    ///
    /// Other tasks of the thread wait meanwhile, and the processor is busy: for workers that ask much,
    /// have little else to do until they are answered, and a processor beside the master's. Where
    /// both share one, it makes calls slower.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use release_core::{Exit, Me, me};
    /// use release_core::rt::local::Local;
    ///
    /// fn main() -> Exit {
    ///     me().spin(Duration::from_micros(20)).run(Local::new, |worker: Me| async move {
    ///         worker.stopping().await;
    ///         Ok::<(), std::io::Error>(())
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Self {
        self.limits = self.limits.with_spin(time);
        self
    }

    /// Messages to and from the master may hold descriptors: so many each, and so many in all
    /// unanswered requests of one side together. The master's group must say the same; see
    /// [`Workers::descriptors`](crate::Workers::descriptors).
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// Another codec than postcard; the master's group must have the same.
    pub fn codec<D>(self, codec: D) -> Worker<D> {
        Worker { privileges: self.privileges, limits: self.limits, codec, requests: PhantomData }
    }

    /// Runs a worker in call mode that answers no requests of its master.
    ///
    /// See [`Worker::run_answering`].
    pub fn run<D, Context, M, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl FnOnce(Me<Context, M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        Context: Serialize + DeserializeOwned,
        M: Request,
        C: Codec<M> + Codec<M::Response> + Codec<Never> + Codec<()>,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let refuse = |never: Never| async move { match never {} };
        self.run_answering(driver, refuse, main)
    }

    /// Runs a worker in call mode: gives up privileges, is greeted by its master, answers its
    /// requests with `answer`, and runs `main`, whose end is the end of the process.
    ///
    /// `main` calls [`Me::ready`] when it serves, and returns soon after [`Me::stopping`].
    /// The types must be those of the master's group. Call it first in `main`: no thread may exist.
    pub fn run_answering<D, Context, M, W, H, A, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        answer: H,
        main: impl FnOnce(Me<Context, M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        Context: Serialize + DeserializeOwned,
        M: Request,
        W: Request,
        C: Codec<M> + Codec<M::Response> + Codec<W> + Codec<W::Response>,
        H: Fn(W) -> A + Send + Sync + 'static,
        A: Future<Output = Result<W::Response, Refused>> + Send + 'static,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (codec, limits) = (self.codec.clone(), self.limits);
        self.in_driver(driver, async |rt: Rt, socket, caught| {
            let limits = limits.of_worker();
            let link = Arc::new(Link::new(&rt, socket, Mode::Calls, limits).map_err(no_io)?);
            let hello = greeted(&link).await?;
            let types = Types::of::<Context, M, W>();
            let context = check_hello(&hello, &types, Agreed::of(limits))?;
            let (stop, stopping) = stop_channel();
            let stop = Arc::new(stop);
            let signals = watch_signals(&rt, caught, &stop)?;
            let works = Arc::<Works>::default();
            let serving = {
                let (link, codec, stop) = (Arc::clone(&link), codec.clone(), Arc::clone(&stop));
                let works = Arc::clone(&works);
                rt.spawn(async move {
                    let answer = |request| Ok(answer(request));
                    let heard = |word| {
                        if let Word::Pulse = word {
                            tell_how_it_goes(&link, &works);
                        }
                    };
                    let ended = serve(Arc::clone(&link), codec, answer, heard).await;
                    tracing::debug!(%ended, "the connection to the master has ended");
                    stop.now();
                })
            };
            let listeners = take_listeners(hello.listeners)?;
            let me = Me {
                id: hello.worker,
                generation: hello.generation,
                group: hello.group,
                context,
                listeners: Mutex::new(listeners),
                master: Peer::new(Arc::clone(&link), codec),
                link,
                works,
                stopping,
                rt,
                _tasks: [signals, serving],
            };
            main(me).await.map_err(program_failed)
        })
    }

    /// Runs a worker in plain mode (rows R9, R11): for masters of the source, and masters in other
    /// languages.
    pub fn run_plain<D, M, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl FnOnce(PlainMe<M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        M: Request,
        C: Codec<M> + Codec<M::Response>,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (codec, limits) = (self.codec.clone(), self.limits);
        self.in_driver(driver, async |rt: Rt, socket, caught| {
            let (stop, stopping) = stop_channel();
            let stop = Arc::new(stop);
            let signals = watch_signals(&rt, caught, &stop)?;
            let master =
                Client::with_end(&rt, socket, codec, limits, move || stop.now()).map_err(no_io)?;
            main(PlainMe { master, stopping, rt, _signals: signals }).await.map_err(program_failed)
        })
    }

    /// What both modes begin with, in this order: the socket, privileges, the runtime.
    fn in_driver<D: Driver>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl AsyncFnOnce(Rt, OwnedFd, Caught) -> Result<(), Error>,
    ) -> Exit {
        let ended = self.enter().and_then(|(socket, caught)| {
            let driver =
                driver().map_err(|error| Error::system("cannot start the async runtime", error))?;
            run(&driver, main(driver.handle(), socket, caught))
        });
        if let Err(error) = &ended {
            tracing::error!(reason = error.report(), "the worker failed");
        }
        ended.into()
    }

    fn enter(self) -> Result<(OwnedFd, Caught), Error> {
        super::detach::refuse_threads()?;
        if is_worker() {
            // Started by another name than its own, see `Group::command`.
            let name = program_name();
            process::set_name(name.split(ROLE).next().unwrap_or(&name));
        }
        let parent = nix::unistd::getppid();
        let socket = take_socket()?;
        let master = socket::peer(&socket).map_err(no_io)?;
        self.privileges.give_up()?;
        let failed = |error: crate::sys::Failed| {
            Error::new(ErrorKind::Privileges, "cannot secure this process").caused_by(error)
        };
        if master.uid() == 0 && !nix::unistd::geteuid().is_root() {
            // Others of this user must not read what the master confided to this process.
            process::forbid_tracing().map_err(failed)?;
        }
        process::forbid_new_privileges().map_err(failed)?;
        // After the change of user, which clears it.
        process::die_with(parent).map_err(failed)?;
        // While no other thread can be interrupted by one that is half caught.
        let caught = Caught::new(&[Signal::SIGTERM, Signal::SIGINT])
            .map_err(|error| Error::system("cannot catch signals", error))?;
        Ok((socket, caught))
    }
}

fn no_io(error: io::Error) -> Error {
    Error::system("cannot use the IPC socket", error)
}

fn program_failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Program, "the worker's main function failed").caused_by(error)
}

/// The IPC socket, moved away from standard input.
fn take_socket() -> Result<OwnedFd, Error> {
    if !fds::is_socket(&io::stdin()) {
        let message = "standard input is not a socket: this program is a worker, \
                       and its master starts it; start the master instead";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    fds::take_stdin().map_err(no_io)
}

async fn greeted(link: &Link) -> Result<Hello, Error> {
    let mut take = |incoming: Incoming<'_>| match incoming {
        Incoming::Hello(body) => Hello::decode(body),
        other => Err(format!("it began with {other:?}")),
    };
    let greeting = std::future::poll_fn(|cx| link.poll_incoming(cx, 0, &mut take));
    let protocol = |why: String| {
        let message = format!("the master does not greet this worker as it should: {why}");
        Err(Error::new(ErrorKind::Protocol, message))
    };
    match link.rt().timeout(GREETING_TIME, greeting).await {
        Ok(Ok(Ok(hello))) => Ok(hello),
        Ok(Ok(Err(why))) => protocol(why),
        Ok(Err(ended)) => protocol(ended.to_string()),
        Err(_) => protocol("it said nothing".to_owned()),
    }
}

fn check_hello<Context: Serialize + DeserializeOwned>(
    hello: &Hello,
    types: &Types,
    agreed: Agreed,
) -> Result<Context, Error> {
    let types = hello.types.as_ref().and_then(|sent| sent.mismatch(types));
    if let Some(difference) = types.or_else(|| hello.agreed.mismatch(&agreed)) {
        let message = format!("master and worker differ in {difference}");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    Postcard.decode(&hello.context).map_err(|error| {
        let message = format!("the context is not a `{}`", type_name::<Context>());
        Error::new(ErrorKind::Protocol, message).caused_by(error)
    })
}

/// Answers the master's heartbeat; the answer leaves with what else is on its way.
fn tell_how_it_goes(link: &Link, works: &Works) {
    let beat = Header::Beat(works.beat(link.rt().now()));
    // A connection that has ended needs no answer.
    let _ = link.queue(Some(beat), |_| Ok::<(), SendError>(()));
}

fn take_listeners(names: Vec<String>) -> Result<Vec<(String, OwnedFd)>, Error> {
    let numbers = spawn::FIRST_PASSED..;
    let taken = names.into_iter().zip(numbers).map(|(name, number)| {
        let socket = fds::take_inherited(number).map_err(|error| {
            Error::system(format!("cannot take listener `{name}`, descriptor {number}"), error)
        })?;
        Ok((name, socket))
    });
    taken.collect()
}

/// TERM and INT ask a worker to stop.
fn watch_signals(rt: &Rt, caught: Caught, stop: &Arc<Stop>) -> Result<Task<()>, Error> {
    let signals = Signals::watch(rt, caught)
        .map_err(|error| Error::system("cannot watch for signals", error))?;
    let stop = Arc::clone(stop);
    Ok(rt.spawn(async move {
        if signals.next().await.is_ok() {
            stop.now();
        }
        // Caught for as long as the worker lives: a second one must not kill it in its last work.
        std::future::pending::<()>().await;
    }))
}
