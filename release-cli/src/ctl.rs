//! `release ctl`: status and commands of a running service.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use nix::unistd::User;
use release_core::ControlCommand;

use self::client::Client;
use crate::run::values::duration;

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

An answer is believed when the process that gives it is root's or the caller's own, or that of the
account that --owner names: a file that somebody else has put in the place of the socket does not count.

Exit status: 0 done; 1 refused or failed, with the reason on standard error; 2 misuse of the
command line; 3 `status`: the service has workers and none of them is ready, `stop`: it has stopped,
and processes that did not finish in time had to be killed.")]
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
    let done = match options.request {
        Request::Status => status(&client, json),
        Request::Reload => client.tell(ControlCommand::Reload).map(|()| None),
        Request::Scale { workers } => client.tell(ControlCommand::Scale(workers)).map(|()| None),
        Request::Restart { id } => client.tell(ControlCommand::Restart(id)).map(|()| None),
        Request::Reopen => client.tell(ControlCommand::Reopen).map(|()| None),
        Request::Upgrade => client.tell(ControlCommand::Upgrade).map(|()| None),
        Request::Stop => client.stop(),
        Request::Watch => watch::run(&client, json).map(|()| None),
    };
    let shows = matches!(options.request, Request::Status | Request::Watch);
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
