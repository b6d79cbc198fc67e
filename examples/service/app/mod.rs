//! The HTTP service, for any runtime.

mod control;
mod http;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use release::ipc::Request;
use release::net::{Inet, Socket};
use release::rt::Driver;
use release::{ControlSocket, Daemon, Error, Exit, Master, Workers, is_worker, log};
use serde::{Deserialize, Serialize};

/// The name of the workers' group.
const GROUP: &str = "http";

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

Signals to the master: TERM and INT stop in order (a second one at once), QUIT stops at once; HUP
replaces all workers without losing a request; TTIN and TTOU start and stop one."
)]
struct Options {
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: Inet,
    /// How many workers accept connections
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=512))]
    workers: u32,
    /// The account that workers run as when the master is started as root
    #[arg(long, value_name = "LOGIN", default_value = "nobody")]
    user: String,
    /// One master at a time: a file that is locked while it runs and holds its pid
    #[arg(long, value_name = "PATH")]
    lock_file: Option<PathBuf>,
    /// A Unix socket that answers `ping`, `status`, `reload`, `scale N` and `broadcast TEXT`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Run as a daemon; exit status 0 says that the service is accepting
    #[arg(long)]
    background: bool,
    /// Where the log goes
    #[arg(long, value_enum, default_value_t = Log::Stderr)]
    log: Log,
    /// How many seconds requests in hand may take to finish at a stop
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stop_deadline: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum, Serialize, Deserialize)]
enum Log {
    Stderr,
    Syslog,
}

impl Log {
    fn start(self) -> Result<(), Error> {
        match self {
            Self::Stderr => log::stderr(),
            Self::Syslog => log::syslog("service"),
        }
    }
}

/// What each worker is told at its start.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    log: Log,
}

/// What workers ask the master: the next number.
#[derive(Debug, Serialize, Deserialize)]
struct Next;

impl Request for Next {
    type Response = u64;
}

/// The master, or one of its workers, on the runtime that `driver` builds.
pub(crate) fn run<D: Driver>(driver: fn() -> io::Result<D>) -> Exit {
    if is_worker() {
        return worker::run(driver);
    }
    master(Options::parse(), driver).unwrap_or_else(Exit::failure)
}

fn master<D: Driver>(options: Options, driver: fn() -> io::Result<D>) -> Result<Exit, Error> {
    options.log.start()?;
    // Bound here, as root if need be: workers get the socket, not the privilege.
    let address = &options.listen;
    let listener = Socket::unconnected(address)?.bind(address)?.into_listening(1024)?;
    tracing::info!(%address, "listening");

    let counter = AtomicU64::new(0);
    let log = options.log;
    let workers = Workers::same_executable(GROUP, options.workers)
        .requests::<String>()
        .user(options.user)
        .listener("http", listener)
        .context(move |_| Settings { log })
        .answer(move |_, Next| {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            async move { Ok(number) }
        });
    let connections = workers.connections();

    let mut master =
        Master::new().stop_deadline(Duration::from_secs(options.stop_deadline)).workers(workers);
    if let Some(path) = options.lock_file {
        master = master.lock_file(path);
    }
    if let Some(path) = options.control {
        master = master.control(ControlSocket::new(path), move |master, _, request: String| {
            let connections = connections.clone();
            async move { Ok(control::answer(&master, &connections, &request).await) }
        });
    }
    if options.background {
        master = master.background(Daemon::new());
    }
    Ok(master.run(driver))
}
