//! `release run`: workers for any program.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

/// Run a program as a pool of workers that share listening sockets
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND ARGS")]
    command: Vec<OsString>,
}

pub(crate) fn run(options: Options) -> ExitCode {
    let Options { command } = options;
    eprintln!("release: run: not built yet: {command:?}");
    ExitCode::from(2)
}
