//! `release daemon`: any program in the background.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// Run a program in the background; done when it is up
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release daemon --pid-file /run/job.pid --out /var/log/job.log --err /var/log/job.log -- ./job
  release daemon --user www-data --chdir /srv/www --wait 2 -- ./server --port 8080

The command takes the place of `release`: its process is the one named in the pid file, which stays
locked as long as the command or what it started has it open.

Exit status: 0 the command is up; 1 the reason is on standard error; 2 misuse of the command line;
126 the command cannot be executed; 127 there is no such command.")]
pub(crate) struct Options {
    /// Append standard output to a file [default: /dev/null]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Append standard error to a file [default: /dev/null]
    #[arg(long, value_name = "FILE")]
    err: Option<PathBuf>,
    /// A file that is locked while the command runs and holds its pid: it runs once
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// The account that the command runs as, with its groups; only root can say this
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// The working directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    chdir: PathBuf,
    /// The file mode creation mask, octal
    #[arg(long, value_name = "MODE", default_value = "022", value_parser = mask)]
    umask: u32,
    /// The command is up when it has lived so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    wait: f64,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND ARGS")]
    command: Vec<OsString>,
}

fn mask(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mask @ ..=0o777) => Ok(mask),
        _ => Err("a mask is an octal number from 0 to 777, such as 027".to_owned()),
    }
}

pub(crate) fn run(options: Options) -> ExitCode {
    eprintln!("release: daemon: not built yet: {options:?}");
    ExitCode::from(2)
}
