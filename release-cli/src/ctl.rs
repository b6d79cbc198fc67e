//! `release ctl`: what a running service is asked and told.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Ask or tell a running service: status, reload, scale, restart, upgrade, stop
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release ctl --control /run/web.control status
  release ctl --control /run/web.control reload && echo the new workers serve
  RELEASE_CONTROL=/run/web.control release ctl scale 8

Exit status: 0 done; 1 refused or failed, with the reason on standard error, and nothing was
changed unless it says so; 2 misuse of the command line.")]
pub(crate) struct Options {
    /// The control socket of the service
    #[arg(long, value_name = "PATH", env = "RELEASE_CONTROL")]
    control: PathBuf,
    /// Print what the service answers as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Give up after so many seconds; the service goes on with what it was told
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u32,
    #[command(subcommand)]
    request: Request,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Request {
    /// All workers, as a table
    Status,
    /// Replace all workers; back when the new ones serve
    Reload,
    /// Have another number of workers; back when they serve, or the surplus has gone
    Scale {
        /// How many workers
        #[arg(value_name = "N")]
        workers: u32,
    },
    /// Replace one worker; back when the new process serves
    Restart {
        /// The worker's number in `status`
        id: u32,
    },
    /// Replace the master by its new version in place; back when that one serves
    Upgrade,
    /// Stop the service in order; back when it has stopped
    Stop,
    /// The table of `status`, renewed until q or ctrl-C
    Watch,
}

pub(crate) fn run(options: Options) -> ExitCode {
    let Options { control, json, timeout, request } = options;
    eprintln!("release: ctl: not built yet: {control:?} {json} {timeout} {request:?}");
    ExitCode::from(2)
}
