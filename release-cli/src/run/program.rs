//! `Program`: a program that runs as workers, by the options of the command line or of the file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::unistd::{User, geteuid};
use release_core::net::inherited_socket;
use release_core::supervise::{LifeLimits, ReloadPolicy, Respawn, RestartPolicy};
use release_core::{
    Error, ErrorKind, Readiness, Settings, StopSignal, WorkerInfo, Workers, look_up_to_start,
};
use std::os::fd::OwnedFd;

use super::reload::Reloaded;
use super::sandbox::Restrictions;
use super::values::{self, Listen, OutputKind};
use crate::output;
use crate::variables::Variables;

/// The name of a program that has none.
pub(super) const ONLY: &str = "workers";

/// What is said of one program.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Program {
    /// A socket for the workers: tcp://HOST:PORT, tcp4://, tcp6://, fd://N,
    /// unix://PATH?mode=0660&owner=LOGIN&group=NAME; with ?each after the port, one for each process;
    /// for datagrams udp://HOST:PORT, one for each process, and unixgram://PATH; unixseq://PATH
    #[arg(long, value_name = "URI")]
    pub(super) listen: Vec<Listen>,
    /// Sockets are non-blocking, which nginx takes for granted
    #[arg(long)]
    pub(super) nonblocking: bool,
    /// How many workers, or `auto`: as many as there are processors for this container [default: 1]
    #[arg(long, value_name = "N", value_parser = values::workers, allow_negative_numbers = true)]
    pub(super) workers: Option<u32>,
    /// How many workers there may be while connections wait; with tcp:// [default: as --workers says]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) max_workers: Option<u32>,
    /// The account that workers run as, with its groups, or the numbers UID[:GID], which need no
    /// account; only root can say this
    #[arg(long, value_name = "LOGIN")]
    pub(super) user: Option<String>,
    /// Another primary group than that account's
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// How a worker becomes ready: notify, ack, fd[:N] or seconds [default: 1]
    #[arg(long, value_name = "HOW", value_parser = values::READINESS, hide_possible_values = true)]
    pub(super) ready: Option<Readiness>,
    /// How long a worker may take to become ready before it is killed, such as 5, 500ms, 2m
    /// [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    pub(super) start_timeout: Option<Duration>,
    /// Replaces a worker that has not said WATCHDOG=1 for this time, as WATCHDOG_USEC tells it; with
    /// `--ready notify`
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    pub(super) watchdog: Option<Duration>,
    /// The signal by which a worker is told to finish [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = values::STOP_SIGNAL, hide_possible_values = true)]
    pub(super) stop_signal: Option<StopSignal>,
    /// How many workers a reload replaces at a time, once the first one has stood the test [default: a
    /// quarter of them]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) surge: Option<u32>,
    /// How long the first new worker of a reload must have been ready before others follow, such as
    /// 500ms, 2; the time of `--ready SECONDS` counts [default: 250ms]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) canary: Option<Duration>,
    /// How many earlier processes of a worker may be finishing at a time; with so many a further reload
    /// waits [default: 2]
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) drain: Option<u32>,
    /// Which workers are started again: always, on-failure, never [default: always]
    #[arg(long, value_name = "WHICH", value_parser = values::RESPAWN, hide_possible_values = true)]
    pub(super) respawn: Option<Respawn>,
    /// Replaces a worker that has been ready for this time, such as 12h, when its successor is ready
    #[arg(long, value_name = "TIME", value_parser = values::age)]
    pub(super) max_age: Option<Duration>,
    /// Replaces a worker whose resident memory is larger, such as 512M, when its successor is ready
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) max_memory: Option<u64>,
    /// How lines of workers are passed on: prefixed, raw, json or inherit, see below [default: prefixed]
    #[arg(long, value_name = "HOW")]
    pub(super) output: Option<OutputKind>,
    /// The longest line of a worker in bytes; longer ones are split [default: 65536]
    #[arg(long, value_name = "BYTES", value_parser = values::line_limit)]
    pub(super) line_limit: Option<usize>,
    /// How many lines a worker may write in a second before the rest of that second is dropped
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = values::log_limit)]
    pub(super) log_limit: Option<u32>,
    /// Where workers run, and a relative program is; a link in it is followed anew at each start
    /// [default: where this was started]
    #[arg(long, value_name = "DIR", value_parser = values::directory)]
    pub(super) chdir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) variables: Variables,
    #[command(flatten)]
    pub(super) restrictions: Restrictions,
    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND ARGS")]
    pub(super) command: Vec<OsString>,
    /// Names of the programs that must be ready first; only in a file.
    #[arg(skip)]
    pub(super) after: Vec<String>,
}

/// Settings of `release run` that its programs follow, too.
#[derive(Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) is_background: bool,
    pub(super) is_syslog: bool,
}

impl Program {
    /// Fills what is not said here from other settings. Variables of both hold; these win.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            listen: if self.listen.is_empty() { other.listen } else { self.listen },
            nonblocking: self.nonblocking || other.nonblocking,
            workers: self.workers.or(other.workers),
            max_workers: self.max_workers.or(other.max_workers),
            user: self.user.or(other.user),
            group: self.group.or(other.group),
            ready: self.ready.or(other.ready),
            start_timeout: self.start_timeout.or(other.start_timeout),
            watchdog: self.watchdog.or(other.watchdog),
            stop_signal: self.stop_signal.or(other.stop_signal),
            surge: self.surge.or(other.surge),
            canary: self.canary.or(other.canary),
            drain: self.drain.or(other.drain),
            respawn: self.respawn.or(other.respawn),
            max_age: self.max_age.or(other.max_age),
            max_memory: self.max_memory.or(other.max_memory),
            output: self.output.or(other.output),
            line_limit: self.line_limit.or(other.line_limit),
            log_limit: self.log_limit.or(other.log_limit),
            chdir: self.chdir.or(other.chdir),
            variables: self.variables.over(other.variables),
            restrictions: self.restrictions.or(other.restrictions),
            command: if self.command.is_empty() { other.command } else { self.command },
            after: [self.after, other.after].concat(),
        }
    }

    /// Returns the file to execute.
    pub(super) fn executable(&self) -> Result<&OsString, Error> {
        self.command.first().ok_or_else(|| {
            let message = "no command: say one after `--`, or in the configuration file";
            Error::new(ErrorKind::Usage, message)
        })
    }

    /// Returns the group of workers that runs this program.
    pub(super) fn workers(
        self,
        name: &str,
        sockets: Vec<(String, OwnedFd)>,
        surroundings: Surroundings,
        settings: &Settings<Reloaded>,
    ) -> Result<Workers, Error> {
        self.check_account()?;
        let (for_size, for_options) = (name.to_owned(), name.to_owned());
        let mut workers = Workers::command(name, 0, self.executable()?, [""; 0])
            .size_from(settings, move |now| now.workers(&for_size))
            .environment(self.variables.base(self.user.is_some()))
            .worker_options_from(settings, move |now, _| now.worker_options(&for_options))
            .restart(self.restart())
            .reload(self.reload())
            .life(self.life())
            .readiness(self.ready.unwrap_or_default())
            .stop_signal(self.stop_signal.unwrap_or_default());
        for (name, socket) in sockets {
            workers = workers.listener(name, socket);
        }
        for (number, listen) in self.listen.iter().enumerate() {
            let socket = match name {
                ONLY => format!("socket{number}"),
                _ => format!("{name}.socket{number}"),
            };
            workers = match listen {
                Listen::On(address) => workers.listen(socket, address.clone()),
                Listen::Descriptor(number) => workers.listener(socket, inherited_socket(*number)?),
            };
        }
        if let Some(most) = self.max_workers {
            workers = workers.grow_to(most);
        }
        if self.nonblocking {
            workers = workers.nonblocking();
        }
        workers = self.after.iter().fold(workers, |workers, other| workers.after(other));
        self.lives_in(self.writes_to(workers, name, surroundings), surroundings)
    }

    /// Sets account, directory and watchdog.
    fn lives_in(&self, mut workers: Workers, around: Surroundings) -> Result<Workers, Error> {
        // In the background, this process is elsewhere.
        let here = || around.is_background.then(|| ".".into());
        if let Some(path) = self.chdir.clone().or_else(here) {
            workers = workers.directory(path);
        }
        self.check_watchdog()?;
        if let Some(time) = self.watchdog {
            workers = workers.heartbeat(time);
        }
        if let Some(user) = &self.user {
            workers = workers.user(user);
        }
        if let Some(group) = &self.group {
            workers = workers.group(group);
        }
        if let Some(sandbox) = self.restrictions.sandbox() {
            workers = workers.sandbox(sandbox);
        }
        Ok(workers)
    }

    fn writes_to(&self, mut workers: Workers, name: &str, around: Surroundings) -> Workers {
        let prefix = match name {
            ONLY => |worker: &WorkerInfo| format!("[{} {}]", worker.id, worker.pid),
            _ => |worker: &WorkerInfo| format!("[{} {} {}]", worker.group, worker.id, worker.pid),
        };
        workers = match (self.output, around.is_syslog) {
            (None, true) => workers.output(output::to_log(prefix)),
            (format, _) => workers.output_format(format.unwrap_or_default().format(prefix)),
        };
        if let Some(bytes) = self.line_limit {
            workers = workers.line_limit(bytes);
        }
        if let Some(lines) = self.log_limit {
            workers = workers.line_rate(lines);
        }
        workers
    }

    fn restart(&self) -> RestartPolicy {
        let policy = RestartPolicy::default().respawn(self.respawn.unwrap_or_default());
        self.start_timeout.iter().fold(policy, |policy, time| policy.ready_timeout(*time))
    }

    fn reload(&self) -> ReloadPolicy {
        let mut policy = ReloadPolicy::default();
        if let Some(surge) = self.surge {
            policy = policy.surge(surge);
        }
        if let Some(canary) = self.canary {
            policy = policy.canary(canary);
        }
        if let Some(drain) = self.drain {
            policy = policy.draining(usize::try_from(drain).unwrap_or(usize::MAX));
        }
        policy
    }

    fn life(&self) -> LifeLimits {
        let mut limits = LifeLimits::default();
        if let Some(age) = self.max_age {
            limits = limits.max_age(age);
        }
        if let Some(bytes) = self.max_memory {
            limits = limits.max_memory(bytes);
        }
        limits
    }

    pub(super) fn check_watchdog(&self) -> Result<(), Error> {
        if self.watchdog.is_none() || self.ready == Some(Readiness::Notify) {
            return Ok(());
        }
        let message = "a watchdog needs workers that talk to it: say `--ready notify`, too";
        Err(Error::new(ErrorKind::Usage, message))
    }

    /// Refuses workers that would run as another account than was said.
    pub(super) fn check_account(&self) -> Result<(), Error> {
        let Some(login) = &self.user else { return Ok(()) };
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
}
