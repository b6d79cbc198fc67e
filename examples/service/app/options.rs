//! What the service can be told: in a configuration file, and on the command line, which goes first.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use release::config::validation::{
    Validation, bool, duration_in_range, int_in_range, keywords, string, unprivileged_user,
};
use release::config::{self, Config, Endpoint, Live, Spec, default, key};
use release::net::Inet;
use release::supervise::LifeLimits;
use release::{Error, Exit, log};
use serde::{Deserialize, Serialize};

/// An HTTP server that answers every GET with the worker, its process and a number that is unique
/// over all workers.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  service                                            on 127.0.0.1:8080 with two workers
  sudo service --listen 0.0.0.0:80 --user www-data   workers without privileges on a privileged port
  service --background --log syslog --lock-file /run/service.pid --control /run/service.control
  service --config service.conf --check-config       says whether the file is right

A configuration file has the same names: `listen = 0.0.0.0:80  workers = 4  user = \"www-data\"`,
and `stop-deadline = 10s`, `background = true`. What stands on the command line goes first. A reload
reads the file again, for `workers` and `log`.

Signals to the master: TERM and INT stop in order (a second one at once), QUIT stops at once; HUP
replaces all workers without losing a request; USR1 opens the files of --access-log and --error-log
again, which somebody has moved; USR2 replaces all workers with the new version of the program at the
path that it was started by; TTIN and TTOU start and stop one."
)]
pub(super) struct Options {
    /// The address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Inet>,
    /// Replace a worker after so many requests, without losing one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_requests: Option<u64>,
    /// Replace a worker that has so many MiB of memory resident, without losing a request
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    max_memory: Option<u64>,
    /// Replace a worker after so many seconds, without losing a request
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
    /// A socket for each worker instead of one for all
    #[arg(long)]
    socket_each: bool,
    /// Rings in shared memory between the master and each worker, of so many KiB
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(4..=65_536))]
    ring: Option<u32>,
    /// How many workers accept connections [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    workers: Option<u32>,
    /// The account that workers run as when the master is started as root [default: nobody]
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// One master at a time: a file that is locked while it runs and holds its pid
    #[arg(long, value_name = "PATH")]
    lock_file: Option<PathBuf>,
    /// A Unix socket for `release ctl`, which also answers `ping` and `broadcast TEXT`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Run as a daemon; exit status 0 says that the service is accepting
    #[arg(long)]
    background: bool,
    /// Where the log goes [default: stderr]
    #[arg(long, value_enum)]
    log: Option<Log>,
    /// A file that gets a line for each answer
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// A file for what would go to standard error
    #[arg(long, value_name = "FILE")]
    error_log: Option<PathBuf>,
    /// How many seconds requests in hand may take to finish at a stop [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_deadline: Option<u64>,
    /// A file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say what is wrong with the configuration file, and end: status 0 when nothing is
    #[arg(long, requires = "config")]
    check_config: bool,
}

/// What is in force.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Settings {
    pub(super) listen: Inet,
    pub(super) socket_each: bool,
    pub(super) ring: Option<u32>,
    pub(super) max_requests: Option<u64>,
    pub(super) max_memory: Option<u64>,
    pub(super) max_age: Option<Duration>,
    pub(super) workers: u32,
    pub(super) user: String,
    pub(super) lock_file: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    pub(super) background: bool,
    pub(super) log: Log,
    pub(super) access_log: Option<PathBuf>,
    pub(super) error_log: Option<PathBuf>,
    pub(super) stop_deadline: Duration,
}

/// What a reload puts in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reloaded {
    pub(super) workers: u32,
    pub(super) log: Log,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Log {
    Stderr,
    Syslog,
}

impl Log {
    pub(super) fn start(self) -> Result<(), Error> {
        match self {
            Self::Stderr => log::stderr(),
            Self::Syslog => log::syslog("service"),
        }
    }
}

impl Settings {
    pub(super) fn reloaded(&self) -> Reloaded {
        Reloaded { workers: self.workers, log: self.log }
    }

    /// How long workers live at most.
    pub(super) fn life(&self) -> LifeLimits {
        let mut life = LifeLimits::default();
        if let Some(requests) = self.max_requests {
            life = life.max_requests(requests);
        }
        if let Some(mebibytes) = self.max_memory {
            life = life.max_memory(mebibytes << 20);
        }
        if let Some(age) = self.max_age {
            life = life.max_age(age);
        }
        life
    }
}

impl Options {
    /// The outcome of `--check-config`, when that is asked for.
    pub(super) fn check(&self) -> Option<Exit> {
        let file = self.config.as_deref().filter(|_| self.check_config)?;
        Some(config::check(file, &spec()))
    }

    /// With the file, if there is one.
    pub(super) fn load(self) -> Result<Configuration, Error> {
        let file = self.config.as_ref().map(|file| Live::load(file, spec())).transpose()?;
        Ok(Configuration { options: self, file })
    }
}

/// The command line, and the file under it.
#[derive(Debug)]
pub(super) struct Configuration {
    options: Options,
    file: Option<Live>,
}

impl Configuration {
    /// What is in force.
    pub(super) fn settings(&self) -> Result<Settings, Error> {
        let mut settings: Settings = match &self.file {
            Some(file) => file.current().deserialize()?,
            None => Config::parse("the defaults", "", &spec())?.deserialize()?,
        };
        let options = self.options.clone();
        settings.listen = options.listen.unwrap_or(settings.listen);
        settings.max_requests = options.max_requests.or(settings.max_requests);
        settings.max_memory = options.max_memory.or(settings.max_memory);
        settings.max_age = options.max_age.map(Duration::from_secs).or(settings.max_age);
        settings.socket_each |= options.socket_each;
        settings.ring = options.ring.or(settings.ring);
        settings.workers = options.workers.unwrap_or(settings.workers);
        settings.user = options.user.unwrap_or(settings.user);
        settings.lock_file = options.lock_file.or(settings.lock_file);
        settings.control = options.control.or(settings.control);
        settings.background |= options.background;
        settings.log = options.log.unwrap_or(settings.log);
        settings.access_log = options.access_log.or(settings.access_log);
        settings.error_log = options.error_log.or(settings.error_log);
        let deadline = options.stop_deadline.map(Duration::from_secs);
        settings.stop_deadline = deadline.unwrap_or(settings.stop_deadline);
        Ok(settings)
    }

    /// Reads the file again. What cannot change while the service runs is said to wait.
    pub(super) fn reload(&self) -> Result<Reloaded, Error> {
        let changes = self.file.as_ref().map_or(Ok(Vec::new()), Live::reload)?;
        for change in changes.iter().filter(|change| !RELOADED.contains(&change.key.as_str())) {
            tracing::warn!(key = change.key, "changed; in force when the service starts again");
        }
        self.warn();
        Ok(self.settings()?.reloaded())
    }

    /// Logs the warnings about the file: a key with another name than before, for example.
    pub(super) fn warn(&self) {
        for warning in self.file.iter().flat_map(|file| file.current().warnings().to_vec()) {
            tracing::warn!("{warning}");
        }
    }
}

/// The keys that a reload puts in force.
const RELOADED: [&str; 2] = ["workers", "log"];

/// No names of hosts: which of its addresses would it be?
fn number_and_port() -> Validation {
    Validation::new("an IP address with a port, such as 0.0.0.0:80 or [::1]:80", |value| {
        matches!(value.as_address(), Some(Endpoint::Inet(_)))
    })
}

fn spec() -> Spec {
    let second = Duration::from_secs(1);
    Spec::new()
        .key(key("listen").default(default::address("127.0.0.1:8080")).check(number_and_port()))
        .key(key("max-requests").optional().check(int_in_range(1..=i64::MAX)))
        .key(key("max-memory").optional().check(int_in_range(1..=1 << 20)))
        .key(key("max-age").optional().check(duration_in_range(second..=366 * 24 * 3600 * second)))
        .key(key("socket-each").default(false).check(bool()))
        .key(key("ring").optional().check(int_in_range(4..=65_536)))
        .key(key("workers").default(2).check(int_in_range(1..=512)))
        .key(key("user").default("nobody").check(unprivileged_user()))
        .key(key("lock-file").optional().check(string()))
        .key(key("control").optional().check(string()))
        .key(key("background").default(false).check(bool()))
        .key(key("log").default(default::keyword("stderr")).check(keywords(["stderr", "syslog"])))
        .key(key("access-log").optional().check(string()))
        .key(key("error-log").optional().check(string()))
        .key(
            key("stop-deadline")
                .default(10 * second)
                .check(duration_in_range(Duration::ZERO..=3600 * second)),
        )
        .fits::<Settings>()
}
