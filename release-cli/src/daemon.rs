//! `release daemon`: any program in the background.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::Args;
use release_core::{Daemon, Environment, Exec, Exit};

use crate::variables::Variables;

use crate::run::values::duration;

/// Run a program in the background; done when it is up
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release daemon --pid-file /run/job.pid --out /var/log/job.log --err /var/log/job.log -- ./job
  release daemon --user www-data --chdir /srv/www --wait 2 -- ./server --port 8080

The command takes the place of `release`: its process is the one named in the pid file. The lock is
that of a descriptor that the command inherits: it lasts as long as the command, or what it passed
the descriptor on to, has it open. The file itself stays and stops no later start.

With --user, programs with set-user-id bits give the command nothing any more. It has HOME, USER,
LOGNAME and SHELL of that account, and nothing of the session that this was started from, such as
SSH_AUTH_SOCK or SUDO_USER, unless --env NAME keeps it. All else is its own, too: --env-clear leaves
but what --env and --env-file say, and those four.

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
    /// The account that the command runs as, with its groups, or the numbers UID[:GID], which need no
    /// account; only root can say this
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    #[command(flatten)]
    variables: Variables,
    /// The working directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    chdir: PathBuf,
    /// The file mode creation mask, octal
    #[arg(long, value_name = "MODE", default_value = "022", value_parser = mask)]
    umask: u32,
    /// The command is up when it has lived for this time, such as 2, 500ms; 0: as soon as it runs
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    wait: Duration,
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
    let mut daemon = Daemon::new().umask(options.umask).directory(options.chdir);
    if let Some(path) = options.out {
        daemon = daemon.output(path);
    }
    if let Some(path) = options.err {
        daemon = daemon.error(path);
    }
    let mut command = options.command.into_iter();
    // The parser wants at least one word.
    let mut exec = Exec::new(command.next().unwrap_or_default(), command).wait(options.wait);
    let base = options.variables.base(options.user.is_some());
    match options.variables.pairs() {
        Ok(pairs) => {
            let set = |all: Environment, (name, value)| all.set(name, value);
            exec = exec.environment(pairs.into_iter().fold(base, set));
        }
        Err(error) => return Exit::failure(error).report(),
    }
    if let Some(login) = options.user {
        exec = exec.user(login);
    }
    if let Some(path) = options.pid_file {
        exec = exec.pid_file(path);
    }
    daemon.exec(exec).report()
}
