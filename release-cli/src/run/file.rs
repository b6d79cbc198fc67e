//! The configuration file of `release run`: the options by the same names.

use std::path::PathBuf;

use release_core::config::validation::{Validation, bool, list_of};
use release_core::config::{Config, Spec, Value, key};
use release_core::{Readiness, StopSignal};

use super::Options;
use super::values::{self, Listen, OutputKind};
use crate::variables::Pair;

/// Kind and check of a value.
type Text = (&'static str, &'static str, fn(&str) -> Result<(), String>);

/// Options with one value, as on the command line.
const VALUES: [Text; 19] = [
    ("workers", "`auto` or a number of workers", |text| values::workers(text).map(drop)),
    ("user", "a login name", |_| Ok(())),
    ("group", "the name of a group", |_| Ok(())),
    ("ready", "notify, ack, fd, \"fd:N\" or a time", |text| values::readiness(text).map(drop)),
    ("start-timeout", "a time longer than 0", |text| values::some_time(text).map(drop)),
    ("watchdog", "a time longer than 0", |text| values::some_time(text).map(drop)),
    ("stop-signal", "the name of a signal", |text| {
        text.parse::<StopSignal>().map(drop).map_err(|error| error.to_string())
    }),
    ("stop-timeout", "a time", |text| values::duration(text).map(drop)),
    ("surge", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("canary", "a time", |text| values::duration(text).map(drop)),
    ("drain", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("respawn", "always, on-failure or never", |text| values::respawn(text).map(drop)),
    ("output", "prefixed, raw, json or inherit", |text| text.parse::<OutputKind>().map(drop)),
    ("out", "a path", |_| Ok(())),
    ("err", "a path", |_| Ok(())),
    ("line-limit", "a number of bytes", |text| values::line_limit(text).map(drop)),
    ("log-limit", "a number of lines", |text| values::log_limit(text).map(drop)),
    ("pid-file", "a path", |_| Ok(())),
    ("control", "a path", |_| Ok(())),
];

/// Options that may come several times.
const LISTS: [Text; 3] = [
    ("listen", "the URI of a socket", |text| text.parse::<Listen>().map(drop)),
    ("env", "a variable such as \"NAME=VALUE\" or \"NAME\"", |text| text.parse::<Pair>().map(drop)),
    ("command", "the program or an argument", |_| Ok(())),
];

/// Directory and environment of workers.
const PLACES: [Text; 2] =
    [("chdir", "an absolute path", path), ("env-file", "an absolute path", path)];

fn path(text: &str) -> Result<(), String> {
    if text.starts_with('/') { Ok(()) } else { Err("it begins with `/`".to_owned()) }
}

pub(super) fn spec() -> Spec {
    let as_text = |expected: &str, test: fn(&str) -> Result<(), String>| {
        Validation::explained(expected, move |value| {
            text(value).map_or_else(|| Err(String::new()), |text| test(&text))
        })
    };
    let mut spec = Spec::new();
    for (name, expected, test) in VALUES {
        spec = spec.key(key(name).optional().check(as_text(expected, test)));
    }
    for (name, expected, test) in LISTS {
        spec = spec.key(key(name).optional().check(list_of(as_text(expected, test))));
    }
    for (name, expected, test) in PLACES {
        spec = spec.key(key(name).optional().check(as_text(expected, test)));
    }
    for name in ["syslog", "background", "nonblocking", "env-clear"] {
        spec = spec.key(key(name).default(false).check(bool()));
    }
    spec
}

/// A value as it stands on a command line.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) | Value::Keyword(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Duration(time) => Some(format!("{}ms", time.as_millis())),
        _ => None,
    }
}

/// Merges the command line with the file, which has passed its checks; the command line wins.
pub(super) fn merge(options: &Options, file: &Config) -> Options {
    let one = |name: &str| file.value(name).and_then(text);
    let list = |name: &str| {
        let values = file.value(name).and_then(Value::as_list).unwrap_or_default();
        values.iter().filter_map(text)
    };
    let is = |name: &str| file.value(name).and_then(Value::as_bool).unwrap_or(false);
    let path = |name: &str| one(name).map(PathBuf::from);
    let mut merged = options.clone();
    if merged.listen.is_empty() {
        merged.listen = list("listen").filter_map(|uri| uri.parse().ok()).collect();
    }
    if merged.command.is_empty() {
        merged.command = list("command").map(Into::into).collect();
    }
    // What comes later wins.
    merged.variables.env = list("env").filter_map(|pair| pair.parse().ok()).collect();
    merged.variables.env.extend_from_slice(&options.variables.env);
    merged.variables.env_file = path("env-file").into_iter().collect();
    merged.variables.env_file.extend_from_slice(&options.variables.env_file);
    merged.variables.env_clear |= is("env-clear");
    merged.chdir = merged.chdir.or_else(|| path("chdir"));
    merged.workers = options.workers.or_else(|| values::workers(&one("workers")?).ok());
    merged.ready =
        options.ready.or_else(|| -> Option<Readiness> { values::readiness(&one("ready")?).ok() });
    merged.start_timeout =
        options.start_timeout.or_else(|| values::duration(&one("start-timeout")?).ok());
    merged.watchdog = options.watchdog.or_else(|| values::duration(&one("watchdog")?).ok());
    merged.stop_signal = options.stop_signal.or_else(|| one("stop-signal")?.parse().ok());
    merged.stop_timeout =
        options.stop_timeout.or_else(|| values::duration(&one("stop-timeout")?).ok());
    merged.surge = options.surge.or_else(|| values::count(&one("surge")?).ok());
    merged.canary = options.canary.or_else(|| values::duration(&one("canary")?).ok());
    merged.drain = options.drain.or_else(|| values::count(&one("drain")?).ok());
    merged.respawn = options.respawn.or_else(|| values::respawn(&one("respawn")?).ok());
    merged.user = merged.user.or_else(|| one("user"));
    merged.group = merged.group.or_else(|| one("group"));
    merged.output = options.output.or_else(|| one("output")?.parse().ok());
    merged.out = merged.out.or_else(|| path("out"));
    merged.err = merged.err.or_else(|| path("err"));
    merged.line_limit = options.line_limit.or_else(|| values::line_limit(&one("line-limit")?).ok());
    merged.log_limit = options.log_limit.or_else(|| values::log_limit(&one("log-limit")?).ok());
    merged.pid_file = merged.pid_file.or_else(|| path("pid-file"));
    merged.control = merged.control.or_else(|| path("control"));
    merged.syslog |= is("syslog");
    merged.background |= is("background");
    merged.nonblocking |= is("nonblocking");
    merged
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_says_what_a_command_line_says() {
        let text = "listen = [\"tcp://127.0.0.1:0\", \"fd://3\"]\nworkers = 3\nready = 2s\n\
            start-timeout = 2m\nwatchdog = 10\nstop-signal = USR2\nrespawn = on-failure\nenv = [\"A=1\", \"B=2\"]\n\
            surge = 2\ncanary = 1s\ndrain = 1\ncommand = [\"sleep\", \"5\"]\nbackground = true\nuser = \"nobody\"\n";
        let file = Config::parse("run.conf", text, &spec()).unwrap();
        let options = Options { workers: Some(4), ..Options::default() };
        let merged = merge(&options, &file);
        assert_eq!((merged.workers, merged.listen.len()), (Some(4), 2));
        assert_eq!(merged.ready, Some(Readiness::After(Duration::from_secs(2))));
        assert_eq!(merged.start_timeout, Some(Duration::from_secs(120)));
        assert_eq!(merged.watchdog, Some(Duration::from_secs(10)));
        assert_eq!((merged.surge, merged.drain), (Some(2), Some(1)));
        assert_eq!(merged.canary, Some(Duration::from_secs(1)));
        assert_eq!(merged.stop_signal, Some(StopSignal::Usr2));
        assert_eq!(merged.command, ["sleep", "5"]);
        assert_eq!(
            (merged.variables.env.len(), merged.background, merged.syslog),
            (2, true, false)
        );
        assert_eq!(merged.user.as_deref(), Some("nobody"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let text = "workers = many\nlisten = [\"tcp://x\"]\nstop-sginal = TERM\n";
        let errors = Config::parse("run.conf", text, &spec()).unwrap_err().to_string();
        for expected in ["run.conf:1:", "run.conf:2:", "a port belongs", "is it `stop-signal`"] {
            assert!(errors.contains(expected), "{expected}: {errors}");
        }
    }
}
