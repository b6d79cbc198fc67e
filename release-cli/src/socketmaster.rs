//! `socketmaster`: one program behind sockets that outlive it.

use std::ffi::OsString;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use release_core::net::ListenOn;
use release_core::rt::local::Local;
use release_core::supervise::{ReloadPolicy, Respawn, RestartPolicy};
use release_core::{
    Error, ErrorKind, Exit, Master, MasterSignal, OutputFormat, Readiness, SignalAction,
    StopSignal, WorkerInfo, Workers, log,
};

use crate::output;
use crate::run::values::duration;

/// Keep a program's listening socket open while the program is replaced
#[derive(Debug, Parser)]
#[command(
    name = "socketmaster",
    version,
    override_usage = "socketmaster -command=PATH [-listen=URI] [-start=MILLIS] [-syslog] [-user=LOGIN] [ARGS]...",
    after_help = "\
Options may have one dash or two, and their value after `=` or a blank.

The command finds the socket as its descriptor 3, named by EINHORN_FDS and LISTEN_FDS. HUP starts it
once more, waits for -start, and then sends HUP to the process before, which is to finish and exit;
when the new one ends in that time, the old one goes on. USR1 does the same after a new version of
socketmaster itself has taken the place of this one. INT, TERM and QUIT are passed on.
socketmaster ends when all its processes have: with status 0, or 1 when one has failed.

Examples:
  socketmaster -listen=tcp://:8080 -command=/usr/lib/app/server -start=5000
  sudo socketmaster -listen=tcp://:80 -command=/usr/lib/app/server -user=www-data -syslog -- -v"
)]
struct Options {
    /// Listen there: tcp://HOST:PORT, tcp4://, tcp6://, unix://PATH, udp://HOST:PORT, unixgram://PATH,
    /// unixseq://PATH; may be repeated
    #[arg(long, value_name = "URI", default_value = "tcp://:8080")]
    listen: Vec<ListenOn>,
    /// The program
    #[arg(long, value_name = "PATH")]
    command: OsString,
    /// How many milliseconds a new process has before the old one is signalled, or a time such as 5s;
    /// 0 never signals it
    #[arg(long, value_name = "MILLIS", default_value = "3000", value_parser = start)]
    start: Duration,
    /// Log to syslog
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    syslog: bool,
    /// The account that the program runs as; only root can say this
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// Arguments for the program
    #[arg(trailing_var_arg = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

/// The program `socketmaster`. Misuse of the command line ends it with status 2.
#[must_use]
pub fn socketmaster() -> ExitCode {
    let options = Options::parse_from(two_dashes(std::env::args_os()));
    prepare(options).map_or_else(Exit::failure, |master| master.run(Local::new)).report()
}

/// The command line, for its manual.
pub(crate) fn command() -> clap::Command {
    Options::command()
}

/// Options with one dash get another; the arguments of the program stay as they are.
fn two_dashes(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut all: Vec<_> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        let option = argument.to_str().filter(|text| text.starts_with('-') && *text != "--");
        let Some(name) = option.map(|text| text.trim_start_matches('-')) else {
            all.push(argument);
            break;
        };
        let takes_value = ["listen", "command", "start", "user"].contains(&name);
        all.push(if name.len() > 1 { format!("--{name}").into() } else { argument });
        if takes_value {
            all.extend(arguments.next());
        }
    }
    all.extend(arguments);
    all
}

/// Milliseconds, unless a unit is there.
fn start(text: &str) -> Result<Duration, String> {
    text.parse().map_or_else(|_| duration(text), |millis| Ok(Duration::from_millis(millis)))
}

fn prepare(options: Options) -> Result<Master, Error> {
    if options.syslog {
        log::syslog("socketmaster")?
    } else {
        log::stderr()?
    }
    if options.user.is_some() && !nix::unistd::geteuid().is_root() {
        let message = "only root can run the program as another user: leave out -user";
        return Err(Error::new(ErrorKind::Privileges, message));
    }
    let signals_the_old = !options.start.is_zero();
    let mut workers = Workers::command("socketmaster", 1, options.command, options.arguments)
        .readiness(Readiness::After(options.start))
        .stop_signal(if signals_the_old { StopSignal::Hup } else { StopSignal::None })
        .restart(RestartPolicy::default().respawn(Respawn::Never))
        .reload(ReloadPolicy::default().canary(Duration::ZERO).draining(usize::MAX));
    for (number, address) in options.listen.into_iter().enumerate() {
        workers = workers.listen(format!("socket{number}"), address);
    }
    if let Some(user) = options.user {
        workers = workers.user(user);
    }
    let prefix = |worker: &WorkerInfo| format!("[{}]", worker.pid);
    workers = match options.syslog {
        true => workers.output(output::to_log(prefix)),
        false => workers.output_format(OutputFormat::Prefixed(prefix)),
    };
    let master = Master::new().workers(workers).forward_signals().stop_deadline(Duration::MAX);
    Ok(master.signal(MasterSignal::Usr1, SignalAction::Upgrade))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dashes(line: &str) -> String {
        let all = two_dashes(line.split(' ').map(OsString::from));
        all.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_dash_is_as_good_as_two_in_front_of_the_arguments() {
        for (given, read) in [
            ("sm -command=x -start 5 --syslog", "sm --command=x --start 5 --syslog"),
            ("sm -command x -v -y", "sm --command x -v -y"),
            ("sm -user -odd -command=x a -start=7", "sm --user -odd --command=x a -start=7"),
            ("sm -command=x -- -start=7", "sm --command=x -- -start=7"),
        ] {
            assert_eq!(dashes(given), read);
        }
    }

    #[test]
    fn the_parser_contradicts_itself_nowhere() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_time_is_in_milliseconds_or_has_a_unit() {
        for (text, millis) in [("0", 0), ("5000", 5000), ("5s", 5000), ("20ms", 20)] {
            assert_eq!(start(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(start("-1").is_err() && start("5d").is_err());
    }

    #[test]
    fn flags_are_those_of_the_manual() {
        let line = "sm -listen=tcp4://localhost:8945 -command=/bin/app -start=0 -syslog=true a -b";
        let options = Options::parse_from(two_dashes(line.split(' ').map(OsString::from)));
        assert_eq!((options.start, options.syslog), (Duration::ZERO, true));
        assert_eq!(options.arguments, ["a", "-b"]);
    }
}
