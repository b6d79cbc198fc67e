//! `release run`: workers for any program.

mod check;
mod control;
mod ends;
mod file;
mod hook;
mod processors;
mod program;
mod reload;
pub(crate) mod sandbox;
pub(crate) mod values;

use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::unistd::geteuid;
use release_core::net::{ListenOn, activated_sockets};
use release_core::rt::local::Local;
use release_core::supervise::Report;
use release_core::{
    ControlSocket, Daemon, Error, ErrorKind, Exit, Master, MasterSignal, SignalAction,
};

use control::{Access, Levels};
use ends::Ends;
use file::Programs;
use hook::Hook;
use program::{ONLY, Program, Surroundings};

/// Run a program as a pool of workers that share listening sockets
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  release run --listen tcp://:8080 --workers auto --ready notify -- gunicorn -b fd://3 app:app
  sudo release run --listen tcp://:80 --user www-data --ready 2 -- node server.js
  release run --listen 'unix:///run/web.sock?mode=0660&group=www-data' --ready ack \\
      --stop-signal USR2 --control /run/web.control -- ./einhorn-app
  release run --config /etc/web.conf --check && kill -HUP $(cat /run/web.pid)

The program finds the sockets as its descriptors from 3 on: LISTEN_FDS, LISTEN_PID and
LISTEN_FDNAMES name them, and so do EINHORN_FDS, EINHORN_FD_COUNT and EINHORN_FD_0, ...

With udp:// each process has a socket of its own, too, and new datagrams go to processes that are ready.

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
one worker; USR1 opens the files of --out and --err again, which somebody has moved, as `release ctl
reopen` does; USR2 puts a new version of `release` itself in the place of this one, as `release ctl
upgrade` does. --signal SIGNAL=ACTION gives TERM, INT, QUIT, HUP, USR1, USR2, TTIN, TTOU or WINCH
another action:
  reload, reopen, upgrade, stop   as `release ctl` has them
  stop-now                        kills the workers
  add-worker, remove-worker       one worker more or less, but not less than one
  ignore                          nothing

A configuration file has the same names, such as `listen = [\"tcp://:80\"]`, `workers = auto`,
`env = [\"MODE=production\"]`, `command = [\"./server\", \"-v\"]`. What stands on the command line goes
first. HUP reads the file again, for `workers`, `env`, `env-file`, `log-level` and the arguments of `command`,
and --env-file in any case. Warnings about the file are in the log. Of the file and `release ctl scale` (or TTIN, TTOU) the one that has changed
the number of workers last holds, also after reloads and upgrades.

Several programs are sections of one file, such as
  control = \"/run/site.control\"
  [program \"database\"]
  ready = notify
  command = [\"./database\"]
  [program \"web\"]
  after = [\"database\"]
  listen = [\"tcp://:80\"]
  workers = 4
  command = [\"./server\"]
What stands before the sections holds for all of them, except `listen` and `command`; a section wins
over it, and the command line over both, `env-file` over `env`, too. A program of `after` is ready, or has ended for good, before this one is started. One that
takes sockets of systemd has their FileDescriptorName. `release ctl scale web 8` names the program.

To deploy, turn a link and send HUP: with `--chdir /srv/app/current -- ./server`, or started in that
directory, new workers run what the link leads to by then.

With --user, workers have HOME, USER, LOGNAME and SHELL of that account, and nothing of the session
that this was started from, such as SSH_AUTH_SOCK or SUDO_USER, unless --env NAME keeps it. All else
is theirs, too: --env-clear leaves but what --env and --env-file say, and those four.

--sandbox restricts workers and all that they start; the kernel enforces it:
  basic     no call that no worker needs, such as ptrace, mount, unshare, bpf, keyctl, io_uring_setup
  strict    moreover: only files of the system and those of --read, --write and --execute; only the TCP
            ports of --connect and --bind; no signals to other processes, and none of their abstract
            sockets; few kinds of sockets
In any case: no core dumps, no capabilities but those of --keep-cap, and none by set-user-id programs.
--read and --connect without --sandbox restrict files and ports alone. --private-tmp needs a master
that may mount, such as root; with strict, workers may write there. A kernel that cannot enforce a
part is an error. `release probe` shows what a sandbox forbids here.

With --max-workers the pool grows while connections wait to be accepted, fast, and shrinks to --workers
when none has waited for some seconds, slowly. That is for workers that serve one connection at a time.
A number that somebody sets by `release ctl scale`, TTIN or TTOU holds for 30 seconds.

--on-event runs a program at each event, with its kind as the only argument and the event in
RELEASE_EVENT, such as {\"event\":\"worker_died\",\"worker\":2,\"exit\":\"exit status 3\",...}. It has the
account, group, directory and environment of the workers: those before the sections, if the file has sections.
One runs at a time, for 30 seconds at most. A service that runs does not wait for it. At the end it does,
for two seconds after the last worker, and in all for three quarters of --stop-timeout; QUIT kills it. When
more than 1000 events wait, the oldest are dropped, and `dropped` tells their number. The kinds: starting, serving, stopping; worker_started, worker_ready, worker_died, worker_killed,
worker_not_started, worker_left_behind, worker_over_limit, dying_too_fast; reloading, reloaded,
reload_rolled_back, reload_refused; upgrading, upgraded, upgrade_refused, upgrade_rolled_back; resized,
failing.

Workers have a session of their own: no terminal, and no way to another worker's process group. When
one was told to stop and leaves processes behind (a start script without `exec`), these get the
signal, too, and the rest of the time. A root master with few capabilities needs SETUID and SETGID
for --user, and KILL to end workers of another user.

--http shows the workers to everybody who can connect: / is a page for people, /metrics is for Prometheus,
/readyz and /livez are 200, or 503 with the reason. A worker of its own serves them, in the group
`status-page`: as nobody if this is root, in a strict sandbox. It changes nothing.

In the foreground it stops in order when its terminal is closed. Under `nohup` it goes on, and HUP is
ignored: `release ctl reload` still works.

As a service of systemd it takes its sockets, and says when it is ready, reloads or stops: use
Type=notify or notify-reload, WatchdogSec= if you like, and KillMode=mixed. With
FileDescriptorStoreMax= systemd keeps the sockets of --listen while this does not run: after a crash
or `systemctl restart` they are taken back, with the connections that wait in them.

Exit status: 0 stopped in order, or all workers have ended well; 1 the reason is on standard error;
2 misuse of the command line; 3 workers had to be killed.")]
pub(crate) struct Options {
    #[command(flatten)]
    program: Program,
    /// How long a worker may take to finish before it is killed, such as 30, 500ms, 2m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    stop_timeout: Option<Duration>,
    /// Gives a signal to this program another action, such as QUIT=stop, see below; may be repeated
    #[arg(long, value_name = "SIGNAL=ACTION", value_parser = values::signal)]
    signal: Vec<(MasterSignal, SignalAction)>,
    /// A file that is locked while this runs, and holds its pid
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// A Unix socket for `release ctl`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Serve a status page, metrics and health: HOST:PORT, such as 127.0.0.1:9100, or
    /// unix://PATH?mode=0660, see below
    #[arg(long, value_name = "ADDRESS", value_parser = values::http)]
    http: Option<ListenOn>,
    /// Append standard output, including that of workers, to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Append standard error, with the log and that of workers, to a file
    #[arg(long, value_name = "FILE")]
    err: Option<PathBuf>,
    /// Rotate the files of --out and --err when they are larger, such as 64M: to FILE.1, FILE.2, ...
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    rotate: Option<u64>,
    /// How many rotated files are kept [default: 5]
    #[arg(long, value_name = "N", value_parser = values::count)]
    rotate_keep: Option<u32>,
    /// A program that is run at each event, such as the death of a worker, see below
    #[arg(long, value_name = "PROGRAM", value_parser = values::absolute_program)]
    on_event: Option<PathBuf>,
    /// Log to syslog, including the output of workers, unless --output is given
    #[arg(long)]
    syslog: bool,
    /// What is logged: off, error, warn, info, debug or trace, levels of single targets such as
    /// hyper=warn, or both, separated by commas [default: $RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL", value_parser = values::log_level)]
    log_level: Option<String>,
    /// Run in the background; exits with status 0 when all workers are ready. Output of workers is printed
    /// until then; later output and the log are lost without --out, --err or --syslog
    #[arg(long)]
    background: bool,
    /// A file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the options, the file with settings and the program, and exit: 0 if a start can be tried.
    /// Sockets of fd:// are not looked at: only the service itself has them
    #[arg(long)]
    check: bool,
}

/// Default of `--stop-timeout`.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(options: Options) -> ExitCode {
    if options.check {
        return check::run(options).map_or_else(Exit::failure, |()| Exit::success()).report();
    }
    let ended = prepare(options).map_or_else(Exit::failure, |master| master.run(Local::new));
    ended.report()
}

fn prepare(options: Options) -> Result<Master, Error> {
    let (options, programs, settings) = reload::load(options)?;
    let (is_background, is_syslog) = (options.background, options.syslog);
    if geteuid().is_root() && programs.values().any(|program| program.user.is_none()) {
        tracing::warn!("workers run as root; `--user` gives them another account");
    }
    file::check_order(&programs)?;
    let mut sockets = activated_sockets()?;
    let is_alone = programs.len() == 1 && programs.contains_key(ONLY);
    let mut master = Master::new();
    for (name, program) in programs.clone() {
        // One of several programs has the sockets of systemd that are named after it.
        let is_its = |socket: &mut (String, _)| is_alone || socket.0 == name;
        let own = sockets.extract_if(.., is_its).collect();
        let surroundings = Surroundings { is_background, is_syslog };
        master = master.workers(program.workers(&name, own, surroundings, &settings)?);
    }
    if let Some((name, _)) = sockets.first() {
        let message =
            format!("the socket `{name}` of systemd has the name of none of the programs");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let stop_timeout = options.stop_timeout.unwrap_or(STOP_TIMEOUT);
    let ends = Ends::default();
    let (seen, in_force) = (ends.clone(), settings.clone());
    let mut master = master
        .stop_deadline(stop_timeout)
        .observe(move |report| {
            seen.see(report);
            if let Report::Reloaded { .. } = report
                && let Err(error) = in_force.current().set_log_level()
            {
                tracing::warn!(reason = error.report(), "the log goes on with its former levels");
            }
        })
        .systemd();
    for (signal, action) in &options.signal {
        master = master.signal(*signal, *action);
    }
    master = log_files(master, &options)?;
    if let Some(path) = &options.pid_file {
        master = master.lock_file(path);
    }
    if let Some(hook) = Hook::of(&options)? {
        // Here, so that it hears of the start, too.
        master = master.main(|master| {
            let events = master.events();
            hook.follow(master, events)
        });
    }
    if options.background {
        master = master.background(Daemon::new());
    }
    listen(master, options, ends, programs)
}

/// Adds the log files and their rotation.
fn log_files(mut master: Master, options: &Options) -> Result<Master, Error> {
    if let Some(path) = &options.out {
        master = master.output(path);
    }
    if let Some(path) = &options.err {
        master = master.error(path);
    }
    match (options.rotate, options.rotate_keep) {
        (Some(size), keep) => Ok(master.rotate(size, keep.unwrap_or(5))),
        (None, Some(_)) => {
            let message = "`--rotate-keep` is for files that are rotated: say `--rotate`, too";
            Err(Error::new(ErrorKind::Usage, message))
        }
        (None, None) => Ok(master),
    }
}

/// Returns who may send commands besides this user.
fn access_levels(options: &Options) -> Result<Levels, Error> {
    let access = options.access.resolve()?;
    if options.control.is_some() || access.is_empty() {
        return Ok(access);
    }
    let message = "`--allow-...` is about the control socket, and there is none: say `--control`";
    Err(Error::new(ErrorKind::Usage, message))
}

/// Adds the status page and the control socket.
fn listen(
    mut master: Master,
    options: Options,
    ends: Ends,
    programs: Programs,
) -> Result<Master, Error> {
    if let Some(address) = options.http.clone() {
        master = master.http(address);
    }
    let access = access_levels(&options)?;
    let Some(path) = options.control else { return Ok(master) };
    let programs = Arc::new(programs);
    let socket = access.socket(ControlSocket::new(path));
    Ok(master.control(socket, move |master, peer, text| {
        let (level, ends, programs) = (access.of(peer.uid), ends.clone(), Arc::clone(&programs));
        async move { Ok(control::answer(&master, &ends, level, &programs, text).await) }
    }))
}
