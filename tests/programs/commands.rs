// A master whose workers are the program on its command line: see `tests/commands.rs`.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use release::ipc::{Refused, Text};
use release::supervise::{Respawn, RestartPolicy};
use release::{
    ControlCommand, ControlSocket, Events, Exit, Master, MasterHandle, OutputStream, Readiness, StopSignal, Workers, driver,
};

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, default_value = "commands")]
    control: PathBuf,
    #[arg(long)]
    listen: Vec<SocketAddr>,
    #[arg(long, default_value_t = 1)]
    workers: u32,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    group: Option<String>,
    /// `notify`, `ack`, `newline`, `newline:N` or milliseconds.
    #[arg(long)]
    ready: Option<String>,
    #[arg(long, default_value_t = 30_000)]
    ready_timeout: u64,
    /// In milliseconds.
    #[arg(long)]
    heartbeat: Option<u64>,
    #[arg(long, default_value = "TERM")]
    stop_signal: StopSignal,
    #[arg(long, default_value_t = 10)]
    stop_deadline: u64,
    #[arg(long, default_value = "always")]
    respawn: String,
    #[arg(long)]
    grow_to: Option<u32>,
    /// Where to write the events.
    #[arg(long)]
    events: Option<PathBuf>,
    #[arg(long)]
    output: bool,
    #[arg(long)]
    unlogged: bool,
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

fn readiness(text: &str) -> Readiness {
    match text {
        "notify" => Readiness::Notify,
        "ack" => Readiness::Acknowledge,
        "newline" => Readiness::Newline(None),
        _ => match text.strip_prefix("newline:") {
            Some(number) => Readiness::Newline(number.parse().ok()),
            None => Readiness::After(Duration::from_millis(text.parse().unwrap_or(0))),
        },
    }
}

async fn control(master: MasterHandle, request: String) -> Result<String, Refused> {
    Ok(match request.as_str() {
        "status" => {
            let all = master.status().into_iter().map(|it| match it.status_text {
                Some(text) => format!("\"{}\" {text}", it.state),
                None => format!("\"{}\"", it.state),
            });
            all.collect::<Vec<_>>().join(" ")
        }
        "reload" => match master.reload().await {
            Ok(()) => "reloaded".to_owned(),
            Err(error) => format!("error: {}", error.report()),
        },
        other => match other.parse::<ControlCommand>() {
            Ok(command) => command.carry_out(&master, "any").await,
            Err(error) => format!("error: {error}"),
        },
    })
}

/// Writes each event on a line of its own.
async fn follow(mut events: Events, path: PathBuf) -> io::Result<()> {
    let mut file = File::create(path)?;
    loop {
        writeln!(file, "{}", events.next().await)?;
    }
}

fn main() -> Exit {
    let options = Options::parse();
    if !options.unlogged
        && let Err(error) = release::log::stderr()
    {
        return error.into();
    }
    let respawn = match options.respawn.as_str() {
        "never" => Respawn::Never,
        "on-failure" => Respawn::OnFailure,
        _ => Respawn::Always,
    };
    let policy = RestartPolicy::default()
        .respawn(respawn)
        .ready_timeout(Duration::from_millis(options.ready_timeout));
    let (program, arguments) = (&options.command[0], &options.command[1..]);
    let mut workers = Workers::command("any", options.workers, program, arguments)
        .restart(policy)
        .stop_signal(options.stop_signal);
    for (number, address) in options.listen.into_iter().enumerate() {
        workers = workers.listen(format!("socket{number}"), address);
    }
    if let Some(ready) = options.ready {
        workers = workers.readiness(readiness(&ready));
    }
    if let Some(millis) = options.heartbeat {
        workers = workers.heartbeat(Duration::from_millis(millis));
    }
    if let Some(user) = options.user {
        workers = workers.user(user);
    }
    if let Some(group) = options.group {
        workers = workers.group(group);
    }
    if let Some(most) = options.grow_to {
        workers = workers.grow_to(most);
    }
    if options.output {
        workers = workers.output(|worker, stream, line| {
            let stream = if stream == OutputStream::Out { "out" } else { "err" };
            // In one piece: the log of other threads goes to the same place.
            let line = format!("[{} {stream}] {}\n", worker.id, String::from_utf8_lossy(line));
            let _ = io::stderr().write_all(line.as_bytes());
        });
    }
    let mut master = Master::new();
    if let Some(path) = options.events {
        master = master.main(|master| follow(master.events(), path));
    }
    master
        .workers(workers)
        .stop_deadline(Duration::from_secs(options.stop_deadline))
        .control(ControlSocket::new(options.control).codec(Text), |master, _, request| {
            control(master, request)
        })
        .run(driver)
}
