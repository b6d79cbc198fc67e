//! `release ctl`: status and commands of a running service.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use nix::unistd::User;
use release_core::{ControlCommand, DeathReport, WorkerSignal};

use self::client::Client;
use self::progress::Change;
use crate::run::values::{self, duration};

mod client;
mod events;
mod progress;
mod table;
mod watch;

/// Ask or tell a running service: status, health, metrics, history, events, reload, scale, restart, signal, reopen, upgrade, stop
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release ctl --control /run/web.control status
  release ctl --control /run/web.control reload && echo the new workers serve
  RELEASE_CONTROL=/run/web.control release ctl scale 8
  release ctl --control /run/site.control scale web 8
  release ctl --control /run/web.control status --json | jq '.workers[].pid'

The options stand before or behind the command. The service says who may ask: `release run` by
--allow-read, --allow-operate and --allow-administer, beside root and its own account.

An answer is believed when the process that gives it is root's or the caller's own, or that of the
account that --owner names: a file that somebody else has put in the place of the socket does not count.

Exit status: 0 done; 1 refused or failed, with the reason on standard error; 2 misuse of the
command line; 3 `status`: the service has workers and none of them is ready, `ready` and `live`: it is
not, with the reason on standard error, `stop`: it has stopped, and processes that did not finish in
time had to be killed.")]
pub(crate) struct Options {
    /// The control socket of the service
    #[arg(long, value_name = "PATH", env = "RELEASE_CONTROL", global = true)]
    control: Option<PathBuf>,
    /// Print JSON: the status, or the result of the command and the reason of a failure
    #[arg(long, global = true)]
    json: bool,
    /// Give up after this time, such as 5, 500ms, 2m; the service goes on with what it was told
    #[arg(long, value_name = "TIME", default_value = "120", value_parser = duration, global = true)]
    timeout: Duration,
    /// The account that the service runs as, by name or number, when it is another than root and yours
    #[arg(long, value_name = "LOGIN", value_parser = account, global = true)]
    owner: Option<u32>,
    #[command(subcommand)]
    request: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Request {
    /// All workers, as a table
    Status,
    /// Whether the service should get requests
    Ready,
    /// Whether the service lives: only a new start could help one that does not
    Live,
    /// The metrics, as OpenMetrics
    Metrics,
    /// The latest deaths of workers
    History,
    /// The events of the service: workers that start, are ready and die, reloads, upgrades; until the
    /// service ends, or ctrl-C
    Events,
    /// Replace all workers; back when the new ones serve
    Reload,
    /// Have another number of workers; back when they serve, or the surplus has gone
    #[command(allow_missing_positional = true)]
    Scale {
        /// The program, if the service has several
        program: Option<String>,
        /// How many workers
        #[arg(value_name = "N", value_parser = number, allow_negative_numbers = true)]
        workers: u32,
    },
    /// Replace one worker; back when the new process serves
    Restart {
        /// The worker's number in `status`
        #[arg(value_parser = number, allow_negative_numbers = true)]
        id: u32,
    },
    /// Send a signal to workers that are ready, such as `signal all USR1`
    Signal {
        /// `all`, a program, or the number of a worker in `status`
        #[arg(value_name = "WHICH")]
        to: String,
        /// HUP, QUIT, USR1, USR2, WINCH, TTIN or TTOU. A worker that does not handle it may end
        #[arg(value_parser = values::WORKER_SIGNAL, hide_possible_values = true)]
        signal: WorkerSignal,
    },
    /// Open the log files again, which somebody has moved
    Reopen,
    /// Replace the master by its new version in place; back when that one serves
    Upgrade,
    /// Stop the service in order; back when it has stopped
    Stop,
    /// The table of `status`, live, until q or ctrl-C
    Watch,
}

fn account(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let user = User::from_name(text).map_err(|error| error.to_string())?;
    user.map(|user| user.uid.as_raw()).ok_or_else(|| "there is no such account".to_owned())
}

fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "it is a number, 0 or more")
}

pub(crate) fn run(options: Options) -> ExitCode {
    // An option that may stand anywhere cannot be required by the parser.
    let Some(control) = options.control else {
        let _ = writeln!(
            io::stderr(),
            "release: say which service: --control PATH, or RELEASE_CONTROL"
        );
        return ExitCode::from(2);
    };
    let client = Client::new(control, options.owner, options.timeout);
    let json = options.json;
    let shows = matches!(
        options.request,
        Request::Status | Request::Watch | Request::Metrics | Request::History | Request::Events
    );
    let tell = |change, command: &ControlCommand| {
        let word = match command {
            ControlCommand::Reload => "reload",
            ControlCommand::Upgrade => "upgrade",
            ControlCommand::Restart(_) => "restart",
            _ => "scale",
        };
        progress::during(&client, word, change, || client.tell(command).map(|()| None))
    };
    let done = match options.request {
        Request::Status => status(&client, json),
        Request::Ready => client.check(&ControlCommand::Ready),
        Request::Live => client.check(&ControlCommand::Live),
        Request::Metrics => client.text(&ControlCommand::Metrics).and_then(|text| print(&text)),
        Request::History => history(&client, json),
        Request::Events => events::follow(&client, json).map(|()| None),
        Request::Reload => tell(Change::Generation, &ControlCommand::Reload),
        Request::Scale { program, workers } => {
            let command = match program {
                Some(program) => ControlCommand::ScaleGroup(program, workers),
                None => ControlCommand::Scale(workers),
            };
            tell(Change::Workers, &command)
        }
        Request::Restart { id } => tell(Change::Workers, &ControlCommand::Restart(id)),
        Request::Signal { to, signal } => {
            let Ok(to) = to.parse();
            client.tell(&ControlCommand::Signal(to, signal)).map(|()| None)
        }
        Request::Reopen => client.tell(&ControlCommand::Reopen).map(|()| None),
        Request::Upgrade => tell(Change::Generation, &ControlCommand::Upgrade),
        Request::Stop => progress::during(&client, "stop", Change::Stop, || client.stop()),
        Request::Watch => watch::run(&client, json).map(|()| None),
    };
    finish(done, json, shows)
}

/// Says how a command has ended, and returns the exit status.
fn finish(done: Result<Option<String>, String>, json: bool, shows: bool) -> ExitCode {
    let told = match &done {
        Ok(None) if json && !shows => say(&format!("{}\n", serde_json::json!({ "ok": true }))),
        Ok(Some(why)) | Err(why) if json && (!shows || done.is_err()) => {
            say(&format!("{}\n", serde_json::json!({ "ok": false, "error": why })))
        }
        _ => Ok(()),
    };
    let (why, status) = match told.and(done) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(why)) => (why, ExitCode::from(UNWELL)),
        Err(why) => (why, ExitCode::FAILURE),
    };
    // Whoever has closed this does not want to know.
    let _ = writeln!(io::stderr(), "release: {why}");
    status
}

/// Exit status of a command that has shown that the service is not healthy.
const UNWELL: u8 = 3;

/// Standard output may be full, or nobody's any more.
fn say(text: &str) -> Result<(), String> {
    let mut output = io::stdout();
    let said = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    said.map_err(|error| format!("cannot write to standard output: {error}"))
}

fn print(text: &str) -> Result<Option<String>, String> {
    say(text).map(|()| None)
}

/// Prints the latest deaths, as a table or, one on each line, as JSON.
fn history(client: &Client, json: bool) -> Result<Option<String>, String> {
    let text = client.text(&ControlCommand::History)?;
    let deaths: Vec<DeathReport> = serde_json::from_str(&text)
        .map_err(|error| format!("the service says what is no history: {error}"))?;
    if json {
        let lines = deaths.iter().map(|death| format!("{}\n", serde_json::json!(death)));
        return print(&lines.collect::<String>());
    }
    print(&table::history(&deaths, SystemTime::now()))
}

/// Prints the status, and returns its problems.
fn status(client: &Client, json: bool) -> Result<Option<String>, String> {
    let (text, status) = client.status()?;
    if json {
        say(&format!("{text}\n"))?;
    } else {
        say(&table::table(&status, table::Style::of_stdout()))?;
    }
    let is_down = status.ready() == 0 && !status.workers.is_empty();
    Ok(is_down.then(|| "no worker is ready".to_owned()))
}
