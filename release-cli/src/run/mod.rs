//! `release run`: workers for any program.

mod control;
mod ends;
mod file;
mod processors;
mod reload;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::Args;
use nix::unistd::{User, geteuid};
use release_core::net::{activated_sockets, inherited_socket};
use release_core::rt::local::Local;
use release_core::supervise::{ReloadPolicy, Respawn, RestartPolicy};
use release_core::{
    ControlSocket, Daemon, Error, ErrorKind, Exit, Master, Readiness, StopSignal, Workers, log,
    look_up_to_start,
};

use crate::output;
use crate::variables::Variables;
use control::Access;
use ends::Ends;
use reload::Reloaded;
use values::{Listen, OutputKind};

/// The name of the workers' group.
const GROUP: &str = "workers";

/// Run a program as a pool of workers that share listening sockets
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  release run --listen tcp://:8080 --workers auto --ready notify -- gunicorn -b fd://3 app:app
  sudo release run --listen tcp://:80 --user www-data --ready 2 -- node server.js
  release run --listen 'unix:///run/web.sock?mode=0660&group=www-data' --ready ack \\
      --stop-signal USR2 --control /run/web.control -- ./einhorn-app
  release run --config /etc/web.conf

The program finds the sockets as its descriptors from 3 on: LISTEN_FDS, LISTEN_PID and
LISTEN_FDNAMES name them, and so do EINHORN_FDS, EINHORN_FD_COUNT and EINHORN_FD_0, ...

With ?each new connections are kept from a process before it is told to stop, until it has accepted
those that it was given. That is for servers such as uvicorn, which close connections whose request
they have not read; and for programs that simply die of the signal to stop.

Ready is a worker that
  notify    said READY=1 at NOTIFY_SOCKET, as services of systemd do
  ack       sent {\"command\":\"worker:ack\",\"pid\":PID} to EINHORN_SOCK_PATH or EINHORN_SOCK_FD
  fd[:N]    wrote a newline to descriptor N, by default the one that NOTIFY_FD names
  SECONDS   has lived so long

With `--ready notify` a worker may also say at NOTIFY_SOCKET:
  STATUS=TEXT             what `release ctl status` shows of it
  EXTEND_TIMEOUT_USEC=N   its start, or its end after it was told to, may take so long from now: at
                          least 2 seconds, in all at most ten times --start-timeout or --stop-timeout
  STOPPING=1              it ends of itself
  WATCHDOG=1              it lives, see --watchdog; WATCHDOG=trigger has it replaced at once

What workers write to standard output and error is passed on to those of this program, line by line:
  prefixed  after the number and process of the worker, such as `[1 4711] `; control characters escaped
  raw       as it is, with its colours
  json      as {\"worker\":1,\"pid\":4711,\"stream\":\"stdout\",\"message\":\"...\"}
  inherit   not at all: workers write to the same places themselves
Nothing is lost while somebody reads: a worker that is faster than that waits, like one that writes to
a pipe. This program never waits; its own log is cut short when nobody reads it.

Signals: HUP replaces all workers, each when its successor is ready; TERM and INT stop in order, and at
once when they are sent again a second later or more; QUIT stops at once; TTIN and TTOU start and stop
one worker; USR1 puts a new version of `release` itself in the place of this one, as `release ctl
upgrade` does; USR2 opens the files of --out and --err again, which somebody has moved, as `release ctl
reopen` does.

A configuration file has the same names, such as `listen = [\"tcp://:80\"]`, `workers = auto`,
`env = [\"MODE=production\"]`, `command = [\"./server\", \"-v\"]`. What stands on the command line goes
first. HUP reads the file again, for `workers`, `env`, `env-file` and the arguments of `command`, and
--env-file in any case. Of the file and `release ctl scale` (or TTIN, TTOU) the one that has changed
the number of workers last holds, also after reloads and upgrades.

To deploy, turn a link and send HUP: with `--chdir /srv/app/current -- ./server`, or started in that
directory, new workers run what the link leads to by then.

With --user, workers have HOME, USER, LOGNAME and SHELL of that account, and nothing of the session
that this was started from, such as SSH_AUTH_SOCK or SUDO_USER, unless --env NAME keeps it. All else
is theirs, too: --env-clear leaves but what --env and --env-file say, and those four.

Workers have a session of their own: no terminal, and no way to another worker's process group. When
one was told to stop and leaves processes behind (a start script without `exec`), these get the
signal, too, and the rest of the time. A root master with few capabilities needs SETUID and SETGID
for --user, and KILL to end workers of another user.

In the foreground it stops in order when its terminal is closed. Under `nohup` it goes on, and HUP is
ignored: `release ctl reload` still works.

As a service of systemd it takes its sockets, and says when it is ready, reloads or stops: use
Type=notify or notify-reload, WatchdogSec= if you like, and KillMode=mixed. With
FileDescriptorStoreMax= systemd keeps the sockets of --listen while this does not run: after a crash
or `systemctl restart` they are taken back, with the connections that wait in them.

Exit status: 0 stopped in order, or all workers have ended well; 1 the reason is on standard error;
2 misuse of the command line; 3 workers had to be killed.")]
pub(crate) struct Options {
    /// A socket for the workers: tcp://HOST:PORT, tcp4://, tcp6://, fd://N,
    /// unix://PATH?mode=0660&owner=LOGIN&group=NAME; with ?each after the port, one for each process
    #[arg(long, value_name = "URI")]
    listen: Vec<Listen>,
    /// Sockets are non-blocking, which nginx takes for granted
    #[arg(long)]
    nonblocking: bool,
    /// How many workers, or `auto`: as many as there are processors for this container [default: 1]
    #[arg(long, value_name = "N", value_parser = values::workers, allow_negative_numbers = true)]
    workers: Option<u32>,
    /// The account that workers run as, with its groups, or the numbers UID[:GID], which need no
    /// account; only root can say this
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// Another primary group than that account's
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// How a worker becomes ready: notify, ack, fd[:N] or seconds [default: 1]
    #[arg(long, value_name = "HOW", value_parser = values::READINESS, hide_possible_values = true)]
    ready: Option<Readiness>,
    /// How long a worker may take to become ready before it is killed, such as 5, 500ms, 2m
    /// [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    start_timeout: Option<Duration>,
    /// Replaces a worker that has not said WATCHDOG=1 for this time, as WATCHDOG_USEC tells it; with
    /// `--ready notify`
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    watchdog: Option<Duration>,
    /// The signal by which a worker is told to finish [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = values::STOP_SIGNAL, hide_possible_values = true)]
    stop_signal: Option<StopSignal>,
    /// How long a worker may take to finish before it is killed, such as 30, 500ms, 2m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    stop_timeout: Option<Duration>,
    /// How many workers a reload replaces at a time, once the first one has stood the test [default: a
    /// quarter of them]
    #[arg(long, value_name = "N", value_parser = values::count)]
    surge: Option<u32>,
    /// How long the first new worker of a reload must have been ready before others follow, such as
    /// 500ms, 2; the time of `--ready SECONDS` counts [default: 250ms]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    canary: Option<Duration>,
    /// How many earlier processes of a worker may be finishing at a time; with so many a further reload
    /// waits [default: 2]
    #[arg(long, value_name = "N", value_parser = values::count)]
    drain: Option<u32>,
    /// Which workers are started again: always, on-failure, never [default: always]
    #[arg(long, value_name = "WHICH", value_parser = values::RESPAWN, hide_possible_values = true)]
    respawn: Option<Respawn>,
    /// A file that is locked while this runs, and holds its pid
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// A Unix socket for `release ctl`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// How lines of workers are passed on: prefixed, raw, json or inherit, see below [default: prefixed]
    #[arg(long, value_name = "HOW")]
    output: Option<OutputKind>,
    /// Append standard output, including that of workers, to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Append standard error, with the log and that of workers, to a file
    #[arg(long, value_name = "FILE")]
    err: Option<PathBuf>,
    /// The longest line of a worker in bytes; longer ones are split [default: 65536]
    #[arg(long, value_name = "BYTES", value_parser = values::line_limit)]
    line_limit: Option<usize>,
    /// How many lines a worker may write in a second before the rest of that second is dropped
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = values::log_limit)]
    log_limit: Option<u32>,
    /// Log to syslog, including the output of workers, unless --output is given
    #[arg(long)]
    syslog: bool,
    /// Run in the background; exits with status 0 when all workers are ready. Output of workers is printed
    /// until then; later output and the log are lost without --out, --err or --syslog
    #[arg(long)]
    background: bool,
    /// A file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where workers run, and a relative program is; a link in it is followed anew at each start
    /// [default: where this was started]
    #[arg(long, value_name = "DIR", value_parser = values::directory)]
    chdir: Option<PathBuf>,
    #[command(flatten)]
    variables: Variables,
    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND ARGS")]
    command: Vec<OsString>,
}

pub(crate) fn run(options: Options) -> ExitCode {
    let ended = prepare(options).map_or_else(Exit::failure, |master| master.run(Local::new));
    ended.report()
}

/// Workers do not run as somebody else than they were told.
fn may_become(login: &str) -> Result<(), Error> {
    let is_own = |user: User| user.uid == geteuid();
    let number = login.split(':').next().unwrap_or_default();
    if number.parse() == Ok(geteuid().as_raw()) {
        return Ok(());
    }
    let is_own = || User::from_name(login).map(|user| user.is_some_and(is_own));
    let is_own = || look_up_to_start(&format!("{login} is this user"), is_own);
    if geteuid().is_root() || is_own().unwrap_or(false) {
        return Ok(());
    }
    let message = format!("only root can run workers as `{login}`: leave out `--user`");
    Err(Error::new(ErrorKind::Privileges, message))
}

fn program(options: &Options) -> Result<&OsString, Error> {
    options.command.first().ok_or_else(|| {
        let message = "no command: say one after `--`, or in the configuration file";
        Error::new(ErrorKind::Usage, message)
    })
}

fn prepare(options: Options) -> Result<Master, Error> {
    let (options, settings) = reload::load(options)?;
    if options.syslog {
        log::syslog("release")?
    } else {
        log::stderr()?
    }
    let program = program(&options)?;
    if let Some(login) = &options.user {
        may_become(login)?;
    } else if geteuid().is_root() {
        tracing::warn!("workers run as root; `--user` gives them another account");
    }
    let mut restart = RestartPolicy::default().respawn(options.respawn.unwrap_or_default());
    if let Some(time) = options.start_timeout {
        restart = restart.ready_timeout(time);
    }
    let mut policy = ReloadPolicy::default();
    if let Some(surge) = options.surge {
        policy = policy.surge(surge);
    }
    if let Some(canary) = options.canary {
        policy = policy.canary(canary);
    }
    if let Some(drain) = options.drain {
        policy = policy.draining(usize::try_from(drain).unwrap_or(usize::MAX));
    }
    let mut workers = Workers::command(GROUP, 0, program, [""; 0])
        .size_from(&settings, Reloaded::workers)
        .environment(options.variables.base(options.user.is_some()))
        .worker_options_from(&settings, |now, _| now.worker_options())
        .restart(restart)
        .reload(policy)
        .readiness(options.ready.unwrap_or_default())
        .stop_signal(options.stop_signal.unwrap_or_default());
    for (name, socket) in activated_sockets()? {
        workers = workers.listener(name, socket);
    }
    for (number, listen) in options.listen.into_iter().enumerate() {
        let name = format!("socket{number}");
        workers = match listen {
            Listen::On(address) => workers.listen(name, address),
            Listen::Descriptor(number) => workers.listener(name, inherited_socket(number)?),
        };
    }
    if options.nonblocking {
        workers = workers.nonblocking();
    }
    // In the background, this process is elsewhere.
    if let Some(path) = options.chdir.or_else(|| options.background.then(|| ".".into())) {
        workers = workers.directory(path);
    }
    if let Some(time) = options.watchdog {
        if options.ready != Some(Readiness::Notify) {
            let message = "a watchdog needs workers that talk to it: say `--ready notify`, too";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        workers = workers.heartbeat(time);
    }
    if let Some(user) = options.user {
        workers = workers.user(user);
    }
    if let Some(group) = options.group {
        workers = workers.group(group);
    }
    let prefix = |worker: &release_core::WorkerInfo| format!("[{} {}]", worker.id, worker.pid);
    workers = match (options.output, options.syslog) {
        (None, true) => workers.output(output::to_log(prefix)),
        (format, _) => workers.output_format(format.unwrap_or_default().format(prefix)),
    };
    if let Some(bytes) = options.line_limit {
        workers = workers.line_limit(bytes);
    }
    if let Some(lines) = options.log_limit {
        workers = workers.line_rate(lines);
    }
    let stop_timeout = options.stop_timeout.unwrap_or(Duration::from_secs(10));
    let ends = Ends::default();
    let seen = ends.clone();
    let mut master = Master::new()
        .workers(workers)
        .stop_deadline(stop_timeout)
        .observe(move |report| seen.see(report))
        .systemd();
    if let Some(path) = options.out {
        master = master.output(path);
    }
    if let Some(path) = options.err {
        master = master.error(path);
    }
    if let Some(path) = options.pid_file {
        master = master.lock_file(path);
    }
    let access = options.access.resolve()?;
    if options.control.is_none() && !access.is_empty() {
        let message =
            "`--allow-...` is about the control socket, and there is none: say `--control`";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    if let Some(path) = options.control {
        master =
            master.control(access.socket(ControlSocket::new(path)), move |master, peer, text| {
                let (level, ends) = (access.of(peer.uid), ends.clone());
                async move { Ok(control::answer(&master, &ends, level, text).await) }
            });
    }
    if options.background {
        master = master.background(Daemon::new());
    }
    Ok(master)
}
