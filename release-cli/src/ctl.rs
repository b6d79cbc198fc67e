//! `release ctl`: what a running service is asked and told.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::client::Client;

mod client;
mod table;
mod watch;

/// Ask or tell a running service: status, reload, scale, restart, reopen, upgrade, stop
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release ctl --control /run/web.control status
  release ctl --control /run/web.control reload && echo the new workers serve
  RELEASE_CONTROL=/run/web.control release ctl scale 8
  release ctl --control /run/web.control status --json | jq '.workers[].pid'

The options stand before or behind the command. The service says who may ask: `release run` by
--allow-read, --allow-operate and --allow-administer, beside root and its own account.

Exit status: 0 done; 1 refused or failed, with the reason on standard error; 2 misuse of the
command line.")]
pub(crate) struct Options {
    /// The control socket of the service
    #[arg(long, value_name = "PATH", env = "RELEASE_CONTROL", global = true)]
    control: Option<PathBuf>,
    /// Print JSON: what the service says, or whether it is done and why not
    #[arg(long, global = true)]
    json: bool,
    /// Give up after so many seconds; the service goes on with what it was told
    #[arg(long, value_name = "SECONDS", default_value_t = 120, global = true)]
    timeout: u32,
    #[command(subcommand)]
    request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Request {
    /// All workers, as a table
    Status,
    /// Replace all workers; back when the new ones serve
    Reload,
    /// Have another number of workers; back when they serve, or the surplus has gone
    Scale {
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
    /// Open the log files again, which somebody has moved
    Reopen,
    /// Replace the master by its new version in place; back when that one serves
    Upgrade,
    /// Stop the service in order; back when it has stopped
    Stop,
    /// The table of `status`, live, until q or ctrl-C
    Watch,
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
    let client = Client::new(control, Duration::from_secs(options.timeout.into()));
    let json = options.json;
    let done = match options.request {
        Request::Status => status(&client, json),
        Request::Reload => client.tell("reload"),
        Request::Scale { workers } => client.tell(&format!("scale {workers}")),
        Request::Restart { id } => client.tell(&format!("restart {id}")),
        Request::Reopen => client.tell("reopen"),
        Request::Upgrade => client.tell("upgrade"),
        Request::Stop => client.stop(),
        Request::Watch => watch::run(&client, json),
    };
    let shows = matches!(options.request, Request::Status | Request::Watch);
    let told = match &done {
        Ok(()) if json && !shows => say(&format!("{}\n", serde_json::json!({ "ok": true }))),
        Err(why) if json => say(&format!("{}\n", serde_json::json!({ "ok": false, "error": why }))),
        _ => Ok(()),
    };
    let Err(why) = done.and(told) else { return ExitCode::SUCCESS };
    // Whoever has closed this does not want to know.
    let _ = writeln!(io::stderr(), "release: {why}");
    ExitCode::FAILURE
}

/// Standard output may be full, or nobody's any more.
fn say(text: &str) -> Result<(), String> {
    let mut output = io::stdout();
    let said = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    said.map_err(|error| format!("cannot write to standard output: {error}"))
}

fn status(client: &Client, json: bool) -> Result<(), String> {
    let (text, status) = client.status()?;
    if json {
        return say(&format!("{text}\n"));
    }
    say(&table::table(&status, table::Style::of_stdout()))
}
