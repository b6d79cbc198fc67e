//! A master whose workers ask it how to behave, each at its start.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use release::ipc::Request;
use release::rt::Rt;
use release::supervise::RestartPolicy;
use release::{
    ControlSocket, Daemon, Environment, Exit, Master, MasterHandle, Workers, driver, log,
};
use serde::{Deserialize, Serialize};

#[derive(Args)]
pub(crate) struct Options {
    /// How the workers behave, see `worker.rs`; the content of this file, if it exists
    #[arg(long, default_value = "behaviour")]
    behaviour: PathBuf,
    #[arg(long, default_value_t = 1)]
    workers: u32,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    lock_file: Option<PathBuf>,
    #[arg(long)]
    control: Option<PathBuf>,
    #[arg(long)]
    background: bool,
    /// Kept in the workers' environment
    #[arg(long)]
    keep: Vec<String>,
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    stop_deadline: u64,
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    ready_timeout: u64,
    /// What the master's own main task does: `fail`, `panic`, `orphans`
    #[arg(long, default_value = "")]
    main: String,
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
    let mut master = Master::new()
        .stop_deadline(Duration::from_millis(options.stop_deadline))
        .workers(workers(&options))
        .main(move |master| main_task(options.main, master));
    if let Some(path) = options.lock_file {
        master = master.lock_file(path);
    }
    if let Some(path) = options.control {
        master = master.control(ControlSocket::new(path), |master, _, _: String| {
            let states = master.status().into_iter();
            let states = states.map(|worker| format!("{:?} ", worker.state.as_str()));
            let states = states.collect();
            async move { Ok(states) }
        });
    }
    if options.background {
        master = master.background(Daemon::new());
    }
    master.run(driver)
}

fn workers(options: &Options) -> Workers {
    let path = std::path::absolute(&options.behaviour).unwrap_or_default();
    let patience = Duration::from_millis(options.ready_timeout);
    let workers = Workers::same_executable("probe", options.workers)
        .environment(Environment::keep(options.keep.clone()))
        .restart(RestartPolicy::default().ready_timeout(patience))
        .answer(move |_, Order| {
            let behaviour = std::fs::read_to_string(&path).unwrap_or_default();
            async move { Ok(behaviour) }
        });
    match &options.user {
        Some(user) => workers.user(user),
        None => workers,
    }
}

async fn main_task(what: String, master: MasterHandle) -> Result<(), String> {
    match what.as_str() {
        "fail" => Err("on purpose".to_owned()),
        "panic" => panic!("on purpose"),
        "orphans" => {
            leave_orphans(master.rt()).await;
            Ok(())
        }
        _ => Ok(()),
    }
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
