//! The HTTP service, for any runtime.

mod control;
mod options;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use release::ipc::Request;
use release::rt::Driver;
use release::{ControlSocket, Daemon, Error, Exit, Master, Workers, handed_over, is_worker};
use serde::{Deserialize, Serialize};

use options::{Configuration, Log, Options, Reloaded};

/// The name of the workers' group.
const GROUP: &str = "http";

/// The largest ring of a worker: the master's is used if it has a smaller one, and none if it has none.
const RING: u32 = 64 << 20;

/// A worker that does not get on with a request for so long is killed and started again.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// What each worker is told at its start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Told {
    log: Log,
    has_access_log: bool,
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
    let options = Options::parse();
    if let Some(outcome) = options.check() {
        return outcome;
    }
    options
        .load()
        .and_then(|configuration| master(configuration, driver))
        .unwrap_or_else(Exit::failure)
}

fn master<D: Driver>(
    configuration: Configuration,
    driver: fn() -> io::Result<D>,
) -> Result<Exit, Error> {
    let settings = configuration.settings()?;
    settings.log.start()?;
    configuration.warn();
    // The numbers stay unique when a new version takes over.
    let counter = Arc::new(AtomicU64::new(handed_over()?.unwrap_or(0)));
    let left = Arc::clone(&counter);
    let reloaded = release::Settings::new(settings.reloaded(), move |_| configuration.reload());
    let workers = Workers::same_executable(GROUP, settings.workers)
        .size_from(&reloaded, |now| now.workers)
        .requests::<String>()
        .life(settings.life())
        .heartbeat(HEARTBEAT)
        .metrics()
        .user(settings.user);
    let workers = match settings.ring {
        Some(kibibytes) => workers.ring(kibibytes << 10),
        None => workers,
    };
    // Opened by the master, as root if need be: workers get the socket, not the privilege.
    let workers = match settings.socket_each {
        true => workers.listen_each("http", settings.listen),
        false => workers.listen("http", settings.listen),
    };
    let has_access_log = settings.access_log.is_some();
    let told = move |now: &Reloaded, _| Told { log: now.log, has_access_log };
    let workers = workers.context_from(&reloaded, told).answer(move |_, Next| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        async move { Ok(number) }
    });
    let connections = workers.connections();

    let mut master = Master::new()
        .systemd()
        .stop_deadline(settings.stop_deadline)
        .workers(workers)
        .hand_over(move || left.load(Ordering::Relaxed));
    if let Some(path) = settings.access_log {
        master = master.output(path);
    }
    if let Some(path) = settings.error_log {
        master = master.error(path);
    }
    if let Some(path) = settings.lock_file {
        master = master.lock_file(path);
    }
    if let Some(path) = settings.control {
        master = master.control(ControlSocket::new(path), move |master, _, request: String| {
            let connections = connections.clone();
            async move { Ok(control::answer(&master, &connections, &request).await) }
        });
    }
    if settings.background {
        master = master.background(Daemon::new());
    }
    Ok(master.run(driver))
}
