//! A master whose workers ask it how to behave, each at its start.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use release::ipc::Request;
use release::net::Unix;
use release::rt::Rt;
use release::claim_child;
use release::supervise::{LifeLimits, ReloadPolicy, Report, RestartPolicy};
use release::{
    ChildCommand, ControlSocket, Daemon, Environment, Error, ErrorKind, Exit, Master, MasterHandle,
    MasterSignal, Sandbox, Settings, SignalAction, Workers, driver, log,
};
use serde::{Deserialize, Serialize};

#[derive(Args)]
pub(crate) struct Options {
    /// How the workers behave, see `worker.rs`; the content of this file, if it exists
    #[arg(long, default_value = "behaviour")]
    behaviour: PathBuf,
    /// What single workers have for themselves, see `options.rs`
    #[arg(long, default_value = "options")]
    options: PathBuf,
    #[arg(long, default_value_t = 1)]
    workers: u32,
    /// Another program than this one
    #[arg(long, value_name = "PROGRAM")]
    worker: Option<PathBuf>,
    /// In plain mode, which knows no heartbeat
    #[arg(long)]
    plain: bool,
    #[arg(long, value_name = "MS")]
    heartbeat: Option<u64>,
    #[arg(long, value_name = "UNITS")]
    max_requests: Option<u64>,
    #[arg(long, value_name = "BYTES")]
    frame_limit: Option<u32>,
    #[arg(long, value_name = "MS")]
    reload_timeout: Option<u64>,
    /// What the observer of the master does: `log` what it sees, or `panic`
    #[arg(long, default_value = "")]
    observer: String,
    /// The path of a Unix socket that the workers share
    #[arg(long)]
    listen: Option<PathBuf>,
    #[arg(long)]
    user: Option<String>,
    /// Another root directory for the workers
    #[arg(long)]
    chroot: Option<PathBuf>,
    /// A strict sandbox for the workers
    #[arg(long)]
    sandbox: bool,
    /// Another working directory for the workers
    #[arg(long)]
    directory: Option<PathBuf>,
    #[arg(long)]
    lock_file: Option<PathBuf>,
    #[arg(long)]
    control: Option<PathBuf>,
    #[arg(long)]
    background: bool,
    /// Where a daemon writes
    #[arg(long, requires = "background")]
    output: Option<PathBuf>,
    #[arg(long, requires = "background")]
    error: Option<PathBuf>,
    /// Kept in the workers' environment
    #[arg(long)]
    keep: Vec<String>,
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    stop_deadline: u64,
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    ready_timeout: u64,
    /// What workers are told at their start: the content of this file, as it was when the master
    /// started or was reloaded. A reload is refused when it cannot be read.
    #[arg(long, default_value = "configuration")]
    configuration: PathBuf,
    #[arg(long, default_value_t = 100, value_name = "MS")]
    canary: u64,
    /// What the master's own main task does: `fail`, `panic`, `orphans`, `children`, and at a stop `farewell`
    /// (a file of that name), `farewell-fails`, `stays`; or `is-deaf`,
    /// `waits-for-a-child` (after an upgrade)
    #[arg(long, default_value = "")]
    main: String,
    /// Another action of a signal
    #[arg(long, value_name = "SIGNAL=ACTION", value_parser = signal)]
    signal: Vec<(MasterSignal, SignalAction)>,
    /// Whether a thread is started too early
    #[arg(long)]
    thread: bool,
}

/// What a worker asks at its start: how to behave.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order;

impl Request for Order {
    type Response = String;
}

pub(crate) fn run(options: Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    if options.thread {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
    }
    let settings = settings(&options.configuration);
    let mut master = Master::new()
        .systemd()
        .stop_deadline(Duration::from_millis(options.stop_deadline))
        .workers(workers(&options, &settings))
        .observe({
            let what = options.observer.clone();
            move |report| observe(&what, report)
        })
        .main(move |master| main_task(options.main, master));
    for (signal, action) in options.signal {
        master = master.signal(signal, action);
    }
    if let Some(time) = options.reload_timeout {
        master = master.reload_timeout(Duration::from_millis(time));
    }
    if let Some(path) = options.lock_file {
        master = master.lock_file(path);
    }
    if let Some(path) = options.control {
        master = master.control(ControlSocket::new(path), |master, _, words: String| async move {
            Ok(answer(&master, &words).await)
        });
    }
    if options.background {
        let daemon = options.output.iter().fold(Daemon::new(), Daemon::output);
        master = master.background(options.error.iter().fold(daemon, Daemon::error));
    }
    master.run(driver)
}

async fn answer(master: &MasterHandle, words: &str) -> String {
    if let Some(answer) = crate::children::answer(master, words).await {
        return answer;
    }
    let (word, number) = words.split_once(' ').unwrap_or((words, ""));
    let changed = match (word, number.parse()) {
        ("reload", _) => master.reload().await,
        ("reopen", _) => master.reopen_logs().await,
        ("upgrade", _) => master.upgrade().await,
        ("hang", _) => std::future::pending().await,
        ("stop", _) => {
            master.stop();
            Ok(())
        }
        ("scale", Ok(number)) => master.scale("probe", number).await,
        ("restart", Ok(number)) => master.restart(number).await,
        _ => {
            let states = master.status().into_iter();
            return states.map(|worker| format!("{:?} ", worker.state.as_str())).collect();
        }
    };
    changed.map_or_else(|error| error.report(), |()| "ok".to_owned())
}

/// What the workers are told: the content of a file. One that begins with a number wants so many of them.
fn settings(path: &Path) -> Settings<String> {
    let path = std::path::absolute(path).unwrap_or_default();
    let first = std::fs::read_to_string(&path).unwrap_or_default();
    Settings::new(first, move |_| {
        let text = std::fs::read_to_string(&path)?;
        if text.starts_with("hangs") {
            std::thread::sleep(Duration::from_secs(3600));
        }
        assert!(!text.starts_with("panics"), "on purpose");
        Ok::<_, io::Error>(text)
    })
}

fn workers(options: &Options, settings: &Settings<String>) -> Workers {
    let fixed = options.workers;
    let wanted = move |text: &String| {
        text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(fixed)
    };
    let path = std::path::absolute(&options.behaviour).unwrap_or_default();
    let options_file = std::path::absolute(&options.options).unwrap_or_default();
    let patience = Duration::from_millis(options.ready_timeout);
    let workers = match &options.worker {
        Some(program) => Workers::program(group(), options.workers, program, [""; 0]),
        None => Workers::same_executable(group(), options.workers),
    };
    let workers = workers
        .environment(Environment::keep(options.keep.clone()))
        .restart(RestartPolicy::default().ready_timeout(patience))
        .reload(ReloadPolicy::default().surge(1).canary(Duration::from_millis(options.canary)))
        .size_from(settings, wanted)
        .context_from(settings, |text, _| text.clone())
        .worker_options(move |id| crate::options::of(id, &options_file))
        .answer(move |_, Order| {
            let behaviour = std::fs::read_to_string(&path).unwrap_or_default();
            async move { Ok(behaviour) }
        });
    let workers = match &options.user {
        Some(user) => workers.user(user),
        None => workers,
    };
    let workers = match &options.chroot {
        Some(directory) => workers.chroot(directory),
        None => workers,
    };
    let workers = match options.sandbox {
        true => workers.sandbox(Sandbox::strict().read("/etc/shells")),
        false => workers,
    };
    let workers = match &options.directory {
        Some(directory) => workers.directory(directory),
        None => workers,
    };
    let workers = match options.heartbeat {
        Some(time) => workers.heartbeat(Duration::from_millis(time)),
        None => workers,
    };
    let workers = match options.frame_limit {
        Some(bytes) => workers.frame_limit(bytes),
        None => workers,
    };
    let workers = match options.max_requests {
        Some(units) => workers.life(LifeLimits::default().max_requests(units)),
        None => workers,
    };
    let workers = match options.plain {
        true => workers.plain(|_, Order| async { Ok(String::new()) }),
        false => workers,
    };
    match &options.listen {
        Some(path) => workers.listen("local", Unix::path(path)),
        None => workers,
    }
}

fn observe(what: &str, report: &Report) {
    match what {
        "log" => tracing::info!("observed {report:?}"),
        "panic" => panic!("in the observer"),
        _ => {}
    }
}

/// The content of the file `group`, which the next version may find changed.
fn group() -> String {
    std::fs::read_to_string("group").unwrap_or_else(|_| "probe".to_owned())
}

async fn main_task(what: String, master: MasterHandle) -> Result<(), String> {
    match what.as_str() {
        "fail" => Err("on purpose".to_owned()),
        "panic" => panic!("on purpose"),
        "orphans" => {
            leave_orphans(master.rt()).await;
            Ok(())
        }
        "children" => wait_for_children(master.rt()).await,
        "farewell" => {
            let lock = std::path::absolute("lock").map_err(|error| error.to_string())?;
            master.stopping().await;
            master.rt().sleep(Duration::from_millis(300)).await;
            let was_locked = lock.exists();
            std::fs::write("farewell", was_locked.to_string()).map_err(|error| error.to_string())
        }
        "farewell-fails" => {
            master.stopping().await;
            Err("on purpose".to_owned())
        }
        "stays" => {
            master.stopping().await;
            std::future::pending().await
        }
        "is-deaf" => std::future::pending().await,
        "waits-for-a-child" => wait_after_upgrade(&master).await.map_err(|error| error.report()),
        _ => Ok(()),
    }
}

fn signal(text: &str) -> Result<(MasterSignal, SignalAction), Error> {
    let no_action = || Error::new(ErrorKind::Usage, "SIGNAL=ACTION");
    let (signal, action) = text.split_once('=').ok_or_else(no_action)?;
    Ok((signal.parse()?, action.parse()?))
}

/// Starts a child. The first version never asks how it has ended, and the second one does.
async fn wait_after_upgrade(master: &MasterHandle) -> Result<(), Error> {
    let command = ChildCommand::new("sh", ["-c", "echo ran once >&2; exit 5"]);
    let child = master.spawn("of-main", command).await?;
    if !Path::new("is-second").exists() {
        std::fs::write("is-second", "").map_err(|error| {
            Error::new(ErrorKind::Program, "cannot write").caused_by(error)
        })?;
        std::future::pending::<()>().await;
    }
    let exit = child.exit().await;
    tracing::info!("the child of main ended with {exit}");
    Ok(())
}

/// Starts children, and looks late how they have ended: those that are claimed as late as it likes.
async fn wait_for_children(rt: &Rt) -> Result<(), String> {
    for (is_claimed, late) in [(false, 500), (true, 2500)] {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 7"])
            .spawn()
            .map_err(|error| error.to_string())?;
        let claimed = is_claimed.then(|| claim_child(child.id()));
        rt.sleep(Duration::from_millis(late)).await;
        // Of a child whose exit status somebody else has taken, nothing is known.
        let status = child.wait().map_err(|error| error.to_string())?;
        tracing::info!(?status, is_claimed, "a child was waited for");
        drop(claimed);
    }
    Ok(())
}

/// Starts processes whose parent ends before they do.
pub(crate) async fn leave_orphans(rt: &Rt) {
    for _ in 0..5 {
        let started =
            std::process::Command::new("/bin/sh").args(["-c", "sleep 0.1 & sleep 0.05 &"]).status();
        tracing::info!(?started, "left orphans");
        rt.sleep(Duration::from_millis(20)).await;
    }
}
