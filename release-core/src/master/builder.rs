//! `Master`: describes a daemon and runs it.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::config::MasterConfig;
use super::control::{BoundControlSocket, ControlSocket};
use super::handle::MasterHandle;
use super::signals::{MasterSignal, SignalAction};
use super::startup::{Bind, BoxedTask, Control, StartTask};
use super::upgrade::HandOver;
use super::workers::IntoGroup;
use super::workers::Workers;
use crate::daemonize::detach::Daemon;
use crate::ipc::hello::Exchange;
use crate::ipc::{Codec, Refused, Request};
use crate::net::Credentials;
use crate::rt::Rt;
use crate::supervise::Report;
use crate::{Error, ErrorKind, Settings};

mod rotate;
mod run;

/// One master and its groups of workers.
///
/// The settings are checked when [`run`](Master::run) begins, before anything happens.
///
/// # Panics
///
/// A panic in your functions does not end the master, except in its main task. The log names the function,
/// and the panic has the consequences of an error of that function:
///
/// | function | a panic |
/// |---|---|
/// | [`main`](Master::main) | stops the master in order; its exit status is 1. During an upgrade, the old workers go on |
/// | [`control`](Master::control) | closes the connection of that request |
/// | [`Settings::new`](crate::Settings::new), [`Workers::size_from`] | refuses the reload |
/// | [`observe`](Master::observe) | is logged |
/// | [`hand_over`](Master::hand_over) | refuses the upgrade |
/// | [`Workers::context`], [`Workers::worker_options`] | fails this start of the worker, as if it could not be spawned; at the start of the master, refuses that |
/// | [`Workers::answer`] | refuses the request |
/// | the state or the rule of [`Workers::answer_permitted`], [`Workers::plain`], a codec | ends and replaces the worker that asked |
/// | [`Workers::output`] | loses that line |
/// | the constructor of the runtime, in [`run`](Master::run) | refuses the start |
/// | a task of [`Rt::spawn`](Rt::spawn) | ends that task |
/// | a function in [`Rt::unblock`](Rt::unblock) | is an error for its caller |
///
/// Panics are caught by unwinding. Build the program with `panic = "unwind"`, which is Cargo's default:
/// with `panic = "abort"` every panic ends the master and all workers with it, and a master that is
/// built so says so in its log. A value that panics when it is dropped during another panic also ends
/// the process.
///
/// # Examples
///
/// ```no_run
/// use release_core::{Exit, Master, Workers};
/// use release_core::rt::local::Local;
///
/// fn main() -> Exit {
///     Master::new()
///         .lock_file("/run/service.pid")
///         .workers(Workers::program("old", 2, "/usr/lib/service/worker", ["-v"])
///             .user("nobody")
///             .plain(|_, text: String| async move { Ok(text) }))
///         .run(Local::new)
/// }
/// ```
#[doc(alias = "master_slave")]
#[doc(alias = "master_slaves")]
pub struct Master {
    config: MasterConfig,
    background: Option<Daemon>,
    /// Files to which standard output and standard error are appended.
    files: [Option<PathBuf>; 2],
    privileged: Option<bool>,
    systemd: bool,
    groups: Vec<Box<dyn IntoGroup>>,
    controls: Vec<Control>,
    main: Option<StartTask>,
    /// Workers of the status page, which are the last group, and the task that knows the master for them.
    pub(super) page: Option<(Box<dyn IntoGroup>, StartTask)>,
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master")
            .field("background", &self.background)
            .field("lock_file", &self.config.lock_file)
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl Default for Master {
    fn default() -> Self {
        Self::new()
    }
}

impl Master {
    /// Creates a master in the foreground, without lock file, control socket or workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new();
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: MasterConfig::default(),
            background: None,
            files: [None, None],
            privileged: None,
            systemd: false,
            groups: Vec::new(),
            controls: Vec::new(),
            main: None,
            page: None,
        }
    }

    /// Runs in the background as a daemon. The process that you started exits with status 0 when every
    /// worker is ready, or prints the reason of the failure and exits with another status.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Daemon, Master};
    ///
    /// let master = Master::new().background(Daemon::new().umask(0o027));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn background(mut self, daemon: Daemon) -> Self {
        self.background = Some(daemon);
        self
    }

    /// Appends standard output, including the output of workers, to a file, which is created with mode
    /// 0640 if it does not exist. Like [`Daemon::output`], and also for a master in the foreground.
    ///
    /// The file is opened as the last step of the start, so that the reason of a failed start is still
    /// printed on the terminal. SIGUSR1 and
    /// [`MasterHandle::reopen_logs`](crate::MasterHandle::reopen_logs) open the file again.
    ///
    /// # Examples
    ///
    /// ```
    /// let master = release_core::Master::new().output("/var/log/web.log").error("/var/log/web.log");
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.files[0] = Some(path.into());
        self
    }

    /// Appends standard error, including that of workers, to a file, which may be the same file: see
    /// [`output`](Master::output).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new().error("/var/log/web.log");
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn error(mut self, path: impl Into<PathBuf>) -> Self {
        self.files[1] = Some(path.into());
        self
    }

    /// Requires root if `true`, refuses root if `false`; by default both are accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new().privileged(true);
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn privileged(mut self, privileged: bool) -> Self {
        self.privileged = Some(privileged);
        self
    }

    /// Allows one master at a time: the file is locked while the master runs, and contains its process
    /// id.
    ///
    /// A root master refuses a file, or a directory above it, that belongs to another account or that
    /// others can write to, unless the directory is sticky as `/tmp`: they could write another process
    /// id.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new().lock_file("/run/service.pid");
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn lock_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.lock_file = Some(path.into());
        self
    }

    /// Adds a group of workers.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Workers};
    ///
    /// let master = Master::new()
    ///     .workers(Workers::command("web", 4, "server", ["--port=80"]).user("www-data"))
    ///     .workers(Workers::command("queue", 1, "worker", [""; 0]).user("queue"));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn workers<W, C>(mut self, workers: Workers<W, C>) -> Self
    where
        W: Request,
        C: Codec<W> + Codec<W::Response>,
    {
        self.groups.push(Box::new(workers));
        self
    }

    /// Listens on a Unix socket and answers requests there.
    ///
    /// A handler that blocks stops the whole master, see [`Workers::answer`].
    ///
    /// Plain mode has answers only: if `handler` returns an error, or panics, the connection is closed
    /// without a reason. Return everything that the client should read, such as an unknown command or a
    /// failed change, as an answer: `Ok(error.report())`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ControlSocket, Master};
    ///
    /// let socket = ControlSocket::new("/run/service.control");
    /// let master = Master::new().control(socket, |master, peer, command: String| async move {
    ///     Ok(match command.as_str() {
    ///         "workers" => master.status().len().to_string(),
    ///         "reload" => master.reload().await.map_or_else(|error| error.report(), |()| "ok".into()),
    ///         "stop" if peer.uid == 0 => {
    ///             master.stop();
    ///             "ok".into()
    ///         }
    ///         _ => format!("error: there is no command {command:?} for you"),
    ///     })
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn control<R, C, H, F>(mut self, mut socket: ControlSocket<C>, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(MasterHandle, Credentials, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        // A daemon leaves the working directory where relative paths begin.
        let is_absolute = socket.make_absolute();
        let path = socket.path().to_owned();
        let types = Exchange::of::<R, C>(socket.own_codec());
        let bind: Bind = Box::new(move |earlier, is_return| {
            is_absolute?;
            types.check()?;
            let bound = match earlier {
                None => socket.bind()?,
                Some(earlier) => socket.follow(earlier, is_return)?,
            };
            let served = bound.served();
            let start = Box::new(move |rt, master| serve_control(bound, rt, master, handler));
            Ok((start as StartTask, served))
        });
        self.controls.push(Control { path, bind });
        self
    }

    /// Sets the master's own main task, which runs beside the workers. The master continues when the
    /// task returns `Ok`, and stops when it returns an error or panics. If the task fails before the
    /// upgrade that started it is answered ([`MasterHandle::upgrade`]), the old workers keep running,
    /// without a main task.
    ///
    /// A main task that blocks stops the whole master, see [`Workers::answer`].
    ///
    /// Use it for work at shutdown: a task that waits for [`MasterHandle::stopping`] has until the
    /// [`stop_deadline`](Master::stop_deadline) to finish.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Master};
    ///
    /// let master = Master::new().main(|master| async move {
    ///     master.stopping().await;
    ///     // Save your state here; lock file and control socket still exist.
    ///     Ok::<(), Error>(())
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn main<F, E>(mut self, main: impl FnOnce(MasterHandle) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.main = Some(Box::new(move |_, master| {
            let main = main(master);
            Box::pin(async move {
                main.await.map_err(|error| {
                    Error::new(ErrorKind::Program, "the master's main task failed").caused_by(error)
                })
            })
        }));
        self
    }

    /// Sets the time after which stopping workers are killed; 10 s by default. A command that requests
    /// more time ([`Readiness::Notify`](crate::Readiness::Notify)) has at most ten times as long.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Master;
    ///
    /// let master = Master::new().stop_deadline(Duration::from_secs(60));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn stop_deadline(mut self, time: Duration) -> Self {
        self.config.stop_deadline = time;
        self
    }

    /// Sets the action of a signal. Without a call, the signals have the actions that
    /// [`run`](Master::run) lists, as in nginx, unicorn and gunicorn.
    ///
    /// A signal without an action, such as WINCH, is left to your program, as by
    /// [`SignalAction::Ignore`]. A master can also be stopped by
    /// [`MasterHandle::stop`](crate::MasterHandle::stop): keep a signal for it all the same, because
    /// service managers know no other way.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, MasterSignal, SignalAction};
    ///
    /// // QUIT stops in order, as in nginx and unicorn, and TERM at once; USR1 is the program's own.
    /// let master = Master::new()
    ///     .signal(MasterSignal::Quit, SignalAction::Stop)
    ///     .signal(MasterSignal::Term, SignalAction::StopNow)
    ///     .signal(MasterSignal::Usr1, SignalAction::Ignore);
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn signal(mut self, signal: MasterSignal, action: SignalAction) -> Self {
        self.config.signals.set(signal, action);
        self
    }

    /// Exits with status 128 + n, in place of 0, after signal n requested the stop, as the OCaml
    /// library does.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new().exit_with_signal();
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn exit_with_signal(mut self) -> Self {
        self.config.exit_with_signal = true;
        self
    }

    /// Notifies systemd of the state of the service, if it was started with a `NOTIFY_SOCKET`: in a
    /// unit with `Type=notify` or `Type=notify-reload`.
    ///
    /// Sends `READY=1` when all workers are ready, the begin and end of each reload and upgrade,
    /// including failed ones, and `STOPPING=1` with the maximum duration of the stop. The status line
    /// shows the number of ready workers, and the reason of a refused change. With `WatchdogSec=` the
    /// watchdog is fed while the master works and each group has a worker that is ready or starting.
    ///
    /// With `FileDescriptorStoreMax=` systemd keeps the sockets of [`Workers::listen`] while no process
    /// of the service runs: after a crash, a `kill -9` or `systemctl restart` the next master takes
    /// back the sockets whose addresses it asks for, and the connections that waited in them are
    /// answered. Their socket files stay at a stop; the next start of the service replaces them.
    /// Sockets of [`listen_each`](Workers::listen_each) are opened again. systemd before version 254
    /// does not announce that it keeps sockets: set `Environment=FDSTORE=16` in the unit there.
    ///
    /// # Examples
    ///
    /// ```
    /// let master = release_core::Master::new().systemd();
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// Stops workers by the signal that stops the master, such as INT, TERM or QUIT, in place of their
    /// [`stop_signal`](Workers::stop_signal). Each further signal is sent to the remaining workers;
    /// only the stop deadline kills.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    ///
    /// let master = Master::new().forward_signals();
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn forward_signals(mut self) -> Self {
        self.config.forward_signals = true;
        self
    }

    /// Makes a new value of these settings at each reload, see [`Settings`]. You need this only for settings
    /// that no group of workers uses: groups bring their settings along.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Settings};
    ///
    /// // A reload is refused if the file does not exist.
    /// let settings = Settings::new(String::new(), |_| std::fs::read_to_string("/etc/motto"));
    /// let master = Master::new().settings(&settings);
    /// # let _ = master;
    /// ```
    #[must_use]
    #[doc(alias = "on_reload")]
    #[doc(alias = "onUpdateConfig")]
    pub fn settings<T: Send + Sync + 'static>(mut self, settings: &Settings<T>) -> Self {
        self.config.hooks.add(&settings.shared());
        self
    }

    /// Sets the maximum time for the new values of all [`Settings`]; 30 s by default. A reload that takes
    /// longer is refused with that reason, and the next one can begin.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Master;
    ///
    /// let master = Master::new().reload_timeout(Duration::from_secs(5));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn reload_timeout(mut self, time: Duration) -> Self {
        self.config.hooks.reload_timeout = time;
        self
    }

    /// Calls `observer` with each event of the master and its workers, in order, after its line in the log.
    ///
    /// The supervisor itself calls it and waits for it: it must be quick, and leave slow work to a task. It
    /// may use a [`MasterHandle`](crate::MasterHandle). A panic in it is logged.
    ///
    /// The hooks of other libraries correspond to these reports:
    ///
    /// | hook | here |
    /// |---|---|
    /// | on start | [`Report::Starting`]; [`Report::AllReady`] when all workers serve |
    /// | on terminate | [`Report::Stopping`] with [`StopCause::Terminate`] |
    /// | on interrupt | [`Report::Stopping`] with [`StopCause::Interrupt`] |
    /// | on quit | [`Report::Stopping`] with [`StopCause::Quit`] |
    /// | on finish | [`Report::Finished`] |
    /// | on child finished, clean up child | [`Report::Died`], with the restart that follows |
    /// | update config | [`Settings`] |
    /// | update server | [`Report::Reloading`], then [`Report::Reloaded`] or [`Report::RolledBack`] |
    ///
    /// [`StopCause::Terminate`]: crate::supervise::StopCause::Terminate
    /// [`StopCause::Interrupt`]: crate::supervise::StopCause::Interrupt
    /// [`StopCause::Quit`]: crate::supervise::StopCause::Quit
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    /// use release_core::supervise::Report;
    ///
    /// let master = Master::new().observe(|report| {
    ///     if let Report::Died { id, pid, exit, .. } = report {
    ///         let _ = std::fs::remove_file(format!("/run/service/{pid}"));
    ///         eprintln!("worker {id}: {exit}");
    ///     }
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    #[doc(alias = "onTerminate")]
    #[doc(alias = "onInterrupt")]
    #[doc(alias = "onQuit")]
    #[doc(alias = "onChildFinished")]
    #[doc(alias = "onStart")]
    #[doc(alias = "onFinish")]
    #[doc(alias = "onUpdateServer")]
    #[doc(alias = "onCleanupChild")]
    pub fn observe(mut self, observer: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.config.hooks.observe = Some(Box::new(observer));
        self
    }

    /// Sets the state that the next version of the program receives in an upgrade
    /// ([`MasterHandle::upgrade`]), where [`handed_over`](crate::handed_over) returns it: state that
    /// the master has beside its workers.
    ///
    /// The function is called when no request is in flight any more, right before the new version takes
    /// over, and once before for its trial. Both versions must have the same fields and variants in the
    /// type, except for new variants at the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use release_core::{Master, handed_over};
    ///
    /// let counter = Arc::new(AtomicU64::new(handed_over()?.unwrap_or(0)));
    /// let master = Master::new().hand_over(move || counter.load(Ordering::Relaxed));
    /// # let _ = master;
    /// # Ok::<(), release_core::Error>(())
    /// ```
    #[must_use]
    pub fn hand_over<T>(mut self, value: impl Fn() -> T + Send + 'static) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        self.config.hand_over = Some(HandOver::new(value));
        self
    }
}

fn serve_control<R, C, H, F>(
    bound: BoundControlSocket<C>,
    rt: Rt,
    master: MasterHandle,
    handler: H,
) -> BoxedTask
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(MasterHandle, Credentials, R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    Box::pin(async move {
        let answer = move |asked, peer, request| handler(master.asked_by(asked), peer, request);
        let served = bound.serve_requests(&rt, answer).await;
        served.map_err(|error| Error::system("the control socket failed", error))
    })
}
