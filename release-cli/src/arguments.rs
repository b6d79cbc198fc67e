//! The command line of `release`.

use std::process::{ExitCode, Termination};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use release_core::rt::local::Local;
use release_core::{Error, Me, is_worker, me};

use crate::{ctl, daemon, generated, probe, run, socketmaster};

/// Workers, readiness and restarts without downtime, for any program
#[derive(Debug, Parser)]
#[command(
    name = "release",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  release run --listen tcp://0.0.0.0:8080 --workers auto -- ./server
  release ctl --control /run/server.control status
  release daemon --pid-file /run/job.pid --out /var/log/job.log -- ./job --all

`release COMMAND --help` has the options, examples and exit status of each. `release man DIRECTORY`
writes manual pages, `release completions SHELL` prints completions for a shell."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Options>),
    Ctl(ctl::Options),
    Daemon(daemon::Options),
    Probe(Box<probe::Options>),
    #[command(hide = true)]
    Man(generated::Man),
    #[command(hide = true)]
    Completions(generated::Completions),
}

/// The program `release`. Misuse of the command line ends it with status 2.
#[must_use]
pub fn release() -> ExitCode {
    if std::env::args_os().len() == 1 && is_worker() {
        return worker();
    }
    let parsed = Arguments::try_parse().unwrap_or_else(|error| explained(error).exit());
    match parsed.command {
        Command::Run(options) => run::run(*options),
        Command::Ctl(options) => ctl::run(options),
        Command::Daemon(options) => daemon::run(options),
        Command::Probe(options) => probe::run(*options),
        Command::Man(man) => man.write([Arguments::command(), socketmaster::command()]),
        Command::Completions(completions) => {
            completions.print([Arguments::command(), socketmaster::command()])
        }
    }
}

/// The worker of `release run --http`: the only one of this program, and the library knows it.
fn worker() -> ExitCode {
    me().run(Local::new, |me: Me| async move {
        me.stopping().await;
        Ok::<(), Error>(())
    })
    .report()
}

/// Returns a hint for a command line with the program but without `--`.
fn explained(mut error: clap::Error) -> clap::Error {
    let is_program = match (error.get(ContextKind::InvalidArg), error.get(ContextKind::Usage)) {
        (Some(ContextValue::String(argument)), Some(ContextValue::StyledStr(usage))) => {
            !argument.starts_with('-') && usage.to_string().contains("-- <COMMAND ARGS>")
        }
        _ => false,
    };
    if error.kind() == ErrorKind::UnknownArgument && is_program {
        let tip = StyledStr::from("the program and its arguments stand behind `--`");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_dashes_before_it_is_told_where_it_stands() {
        let message =
            |words: &[&str]| explained(Arguments::try_parse_from(words).unwrap_err()).to_string();
        for words in
            [&["release", "run", "./x"][..], &["release", "daemon", "--wait", "1", "x", "-y"]]
        {
            let said = message(words);
            assert!(
                said.contains("tip: the program and its arguments stand behind `--`"),
                "{said}"
            );
        }
        for words in
            [&["release", "run", "--listn", "x"][..], &["release", "ctl", "scale", "1", "2", "3"]]
        {
            let said = message(words);
            assert!(!said.contains("stand behind"), "{said}");
        }
    }

    #[test]
    fn the_parser_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_misspelt_option_is_answered_with_the_right_one() {
        let wrong = ["release", "daemon", "--pidfile", "x", "--", "true"];
        let message = Arguments::try_parse_from(wrong).unwrap_err().to_string();
        assert!(message.contains("--pid-file"), "{message}");
    }
}
