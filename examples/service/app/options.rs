//! What the service can be told: in a configuration file, and on the command line, which goes first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use release::config::validation::{
    Validation, bool, duration_in_range, int_in_range, keywords, string, unprivileged_user,
};
use release::config::{self, Address, Config, Spec, default, key};
use release::net::Inet;
use release::{Error, Exit, log};
use serde::{Deserialize, Serialize};

/// An HTTP server that answers every GET with the worker, its process and a number that is unique
/// over all workers.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  service                                            on 127.0.0.1:8080 with two workers
  sudo service --listen 0.0.0.0:80 --user www-data   workers without privileges on a privileged port
  service --background --log syslog --lock-file /run/service.pid --control /run/service.control
  service --config service.conf --check-config       says whether the file is right

A configuration file has the same names: `listen = 0.0.0.0:80  workers = 4  user = \"www-data\"`,
and `stop-deadline = 10s`, `background = true`. What stands on the command line goes first.

Signals to the master: TERM and INT stop in order (a second one at once), QUIT stops at once; HUP
replaces all workers without losing a request; TTIN and TTOU start and stop one."
)]
pub(super) struct Options {
    /// The address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Inet>,
    /// How many workers accept connections [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    workers: Option<u32>,
    /// The account that workers run as when the master is started as root [default: nobody]
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// One master at a time: a file that is locked while it runs and holds its pid
    #[arg(long, value_name = "PATH")]
    lock_file: Option<PathBuf>,
    /// A Unix socket that answers `ping`, `status`, `reload`, `scale N` and `broadcast TEXT`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Run as a daemon; exit status 0 says that the service is accepting
    #[arg(long)]
    background: bool,
    /// Where the log goes [default: stderr]
    #[arg(long, value_enum)]
    log: Option<Log>,
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
    pub(super) workers: u32,
    pub(super) user: String,
    pub(super) lock_file: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    pub(super) background: bool,
    pub(super) log: Log,
    pub(super) stop_deadline: Duration,
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

impl Options {
    /// The outcome of `--check-config`, when that is asked for.
    pub(super) fn check(&self) -> Option<Exit> {
        let file = self.config.as_deref().filter(|_| self.check_config)?;
        Some(config::check(file, &spec()))
    }

    /// The settings of the file, if there is one, under those of the command line.
    pub(super) fn settings(self) -> Result<Settings, Error> {
        let mut settings = read(self.config.as_deref())?;
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.workers = self.workers.unwrap_or(settings.workers);
        settings.user = self.user.unwrap_or(settings.user);
        settings.lock_file = self.lock_file.or(settings.lock_file);
        settings.control = self.control.or(settings.control);
        settings.background |= self.background;
        settings.log = self.log.unwrap_or(settings.log);
        let deadline = self.stop_deadline.map(Duration::from_secs);
        settings.stop_deadline = deadline.unwrap_or(settings.stop_deadline);
        Ok(settings)
    }
}

fn read(file: Option<&Path>) -> Result<Settings, Error> {
    let spec = spec();
    let config = match file {
        Some(file) => Config::load(file, &spec)?,
        None => Config::parse("the defaults", "", &spec)?,
    };
    Ok(config.deserialize()?)
}

/// No names of hosts: which of its addresses would it be?
fn number_and_port() -> Validation {
    Validation::new("an IP address with a port, such as 0.0.0.0:80 or [::1]:80", |value| {
        matches!(value.as_address(), Some(Address::Inet(_)))
    })
}

fn spec() -> Spec {
    let second = Duration::from_secs(1);
    Spec::new()
        .key(key("listen").default(default::address("127.0.0.1:8080")).check(number_and_port()))
        .key(key("workers").default(2).check(int_in_range(1..=512)))
        .key(key("user").default("nobody").check(unprivileged_user()))
        .key(key("lock-file").optional().check(string()))
        .key(key("control").optional().check(string()))
        .key(key("background").default(false).check(bool()))
        .key(key("log").default(default::keyword("stderr")).check(keywords(["stderr", "syslog"])))
        .key(
            key("stop-deadline")
                .default(10 * second)
                .check(duration_in_range(Duration::ZERO..=3600 * second)),
        )
        .fits::<Settings>()
}
