//! The values of options, written alike on the command line and in a configuration file.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};
use release_core::net::ListenOn;
use release_core::supervise::Respawn;
use release_core::{
    MasterSignal, OutputFormat, Readiness, SignalAction, StopSignal, WorkerInfo, WorkerSignal, log,
};

use super::processors::processors;

/// Where a socket comes from.
#[derive(Clone, Debug)]
pub(super) enum Listen {
    On(ListenOn),
    Descriptor(RawFd),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(uri: &str) -> Result<Self, String> {
        match uri.strip_prefix("fd://") {
            Some("0" | "1" | "2") => {
                Err("0 to 2 are input, output and error: sockets are passed from 3 on".to_owned())
            }
            Some(number) => number
                .parse()
                .map(Self::Descriptor)
                .map_err(|_| format!("`{number}` is not the number of a descriptor")),
            None => uri.parse().map(Self::On).map_err(|error: release_core::Error| error.report()),
        }
    }
}

/// The address of the status page: a URI, or what is left of it where no other kind is possible.
pub(super) fn http(text: &str) -> Result<ListenOn, String> {
    let uri = match text.split_once("://") {
        Some(("tcp" | "tcp4" | "tcp6" | "unix", _)) => text.to_owned(),
        Some(_) => return Err("it is tcp://HOST:PORT or unix://PATH".to_owned()),
        None if text.starts_with('/') => format!("unix://{text}"),
        None => format!("tcp://{text}"),
    };
    uri.parse().map_err(|error: release_core::Error| error.report())
}

/// The directory may change before the first worker is started; links stay links.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("it has no name".to_owned()) } else { Ok(text.into()) }
}

/// A program whose path does not depend on a directory that may change, unless it is a name in `PATH`.
pub(super) fn absolute_program(text: &str) -> Result<PathBuf, String> {
    match text.contains('/') {
        true => std::path::absolute(text).map_err(|error| error.to_string()),
        false => directory(text),
    }
}

/// How lines of workers are passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OutputKind {
    #[default]
    Prefixed,
    Raw,
    Json,
    Inherit,
}

impl OutputKind {
    pub(super) fn format(self, prefix: fn(&WorkerInfo) -> String) -> OutputFormat {
        match self {
            Self::Prefixed => OutputFormat::Prefixed(prefix),
            Self::Raw => OutputFormat::Raw,
            Self::Json => OutputFormat::Json,
            Self::Inherit => OutputFormat::Inherit,
        }
    }
}

impl FromStr for OutputKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prefixed" => Ok(Self::Prefixed),
            "raw" => Ok(Self::Raw),
            "json" => Ok(Self::Json),
            "inherit" => Ok(Self::Inherit),
            _ => Err("it is prefixed, raw, json or inherit".to_owned()),
        }
    }
}

pub(super) fn line_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 80..=16_777_216) => Ok(bytes),
        _ => Err("it is a number of bytes from 80 to 16777216".to_owned()),
    }
}

pub(super) fn log_limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(lines @ 1..) => Ok(lines),
        _ => Err("it is a number of lines, 1 or more".to_owned()),
    }
}

pub(super) fn workers(text: &str) -> Result<u32, String> {
    if text == "auto" {
        return Ok(processors());
    }
    match text.parse() {
        Ok(count @ 1..=10_000) => Ok(count),
        _ => Err("it is `auto` or a number from 1 to 10000".to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ 1..=10_000) => Ok(count),
        _ => Err("it is a number from 1 to 10000".to_owned()),
    }
}

pub(super) fn readiness(text: &str) -> Result<Readiness, String> {
    match (text, text.strip_prefix("fd:")) {
        ("notify", _) => Ok(Readiness::Notify),
        ("ack", _) => Ok(Readiness::Acknowledge),
        ("fd", _) => Ok(Readiness::Newline(None)),
        (_, Some(number)) => {
            let number = number.parse().map_err(|_| format!("`{number}` is not a descriptor"))?;
            Ok(Readiness::Newline(Some(number)))
        }
        _ => duration(text)
            .map(Readiness::After)
            .map_err(|_| "it is notify, ack, fd, fd:N or a time such as 2 or 500ms".to_owned()),
    }
}

/// Seconds, unless a unit is there.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is none of the units ms, s, m, h")),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| "it is a time such as 2 or 500ms")?;
    let time = Duration::try_from_secs_f64(seconds * unit).ok();
    let longest = Duration::from_secs(10 * 365 * 24 * 3600);
    time.filter(|time| *time <= longest).ok_or_else(|| "that is no time to wait".to_owned())
}

/// A [`duration`] in which something can happen.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("it is longer than 0".to_owned()) } else { Ok(time) }
}

/// A [`duration`] that a process may live.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_secs(1) { Err("it is a second or more".to_owned()) } else { Ok(time) }
}

/// Bytes, unless a unit is there.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is none of the units K, M, G")),
    };
    let number = number.parse::<u64>().map_err(|_| "it is a size such as 512M or 2G")?;
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "that is no size".to_owned())
}

pub(super) fn respawn(text: &str) -> Result<Respawn, String> {
    match text {
        "always" => Ok(Respawn::Always),
        "on-failure" => Ok(Respawn::OnFailure),
        "never" => Ok(Respawn::Never),
        _ => Err("it is always, on-failure or never".to_owned()),
    }
}

/// Levels of the log, as `RUST_LOG` has them.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    log::check_levels(text).map(|()| text.to_owned()).map_err(|error| error.report())
}

/// A signal of the master and its action, such as `USR1=reopen`.
pub(super) fn signal(text: &str) -> Result<(MasterSignal, SignalAction), String> {
    let (signal, action) =
        text.split_once('=').ok_or_else(|| "it is SIGNAL=ACTION, such as QUIT=stop".to_owned())?;
    let wrong = |error: release_core::Error| error.report();
    Ok((signal.parse().map_err(wrong)?, action.parse().map_err(wrong)?))
}

/// A parser whose values, or some of them, a shell can complete.
#[derive(Clone)]
pub(crate) struct Hinted<T: 'static> {
    pub(super) parse: fn(&str) -> Result<T, String>,
    pub(super) hints: &'static [&'static str],
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Hinted<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        TypedValueParser::parse_ref(&self.parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.hints.iter().map(PossibleValue::new)))
    }
}

pub(super) const READINESS: Hinted<Readiness> =
    Hinted { parse: readiness, hints: &["notify", "ack", "fd"] };

pub(super) const RESPAWN: Hinted<Respawn> =
    Hinted { parse: respawn, hints: &["always", "on-failure", "never"] };

pub(super) fn stop_signal(text: &str) -> Result<StopSignal, String> {
    text.parse().map_err(|error: release_core::Error| error.report())
}

pub(crate) fn worker_signal(text: &str) -> Result<WorkerSignal, String> {
    text.parse().map_err(|error: release_core::Error| error.report())
}

pub(crate) const WORKER_SIGNAL: Hinted<WorkerSignal> = Hinted {
    parse: worker_signal,
    hints: &["HUP", "QUIT", "USR1", "USR2", "WINCH", "TTIN", "TTOU"],
};

pub(super) const STOP_SIGNAL: Hinted<StopSignal> = Hinted {
    parse: stop_signal,
    hints: &["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "NONE"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, millis) in [("0", 0), ("2", 2000), ("1.5s", 1500), ("20ms", 20), ("2m", 120_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "x", "-1", "1d", "1e400", "inf", "nan", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_page_are_read() {
        for text in [
            ":9100",
            "127.0.0.1:9100",
            "[::1]:9100",
            "tcp4://*:80",
            "/run/x",
            "unix:///x?mode=0660",
        ] {
            assert!(http(text).is_ok(), "{text}");
        }
        for text in ["", "9100", "localhost", "udp://:9100", "fd://3", "unix://"] {
            assert!(http(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_shell_completes_is_taken() {
        assert!(READINESS.hints.iter().all(|hint| readiness(hint).is_ok()));
        assert!(RESPAWN.hints.iter().all(|hint| respawn(hint).is_ok()));
        assert!(WORKER_SIGNAL.hints.iter().all(|hint| worker_signal(hint).is_ok()));
        assert!(STOP_SIGNAL.hints.iter().all(|hint| (STOP_SIGNAL.parse)(hint).is_ok()));
    }

    #[test]
    fn some_time_is_not_none() {
        assert_eq!(some_time("20ms"), Ok(Duration::from_millis(20)));
        for text in ["0", "0s", "0.0ms", "x"] {
            assert!(some_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_of_a_life_are_read() {
        assert_eq!(age("12h"), Ok(Duration::from_secs(12 * 60 * 60)));
        for (text, bytes) in [("65536", 65536), ("512M", 512 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(age("999ms").is_err());
        for text in ["", "0", "-1", "M", "1.5G", "1T", "17179869184G", "many"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn readiness_is_read() {
        assert_eq!(readiness("fd"), Ok(Readiness::Newline(None)));
        assert_eq!(readiness("fd:9"), Ok(Readiness::Newline(Some(9))));
        assert_eq!(readiness("0.5"), Ok(Readiness::After(Duration::from_millis(500))));
        for text in ["fd:", "fd:x", "soon", ""] {
            assert!(readiness(text).is_err(), "{text}");
        }
    }

    #[test]
    fn actions_of_signals_are_read() {
        assert_eq!(signal("QUIT=stop"), Ok((MasterSignal::Quit, SignalAction::Stop)));
        assert_eq!(signal("sigusr1=upgrade"), Ok((MasterSignal::Usr1, SignalAction::Upgrade)));
        for (text, wrong) in [("QUIT", "SIGNAL=ACTION"), ("KILL=stop", "`KILL`"), ("HUP=", "``")] {
            let message = signal(text).unwrap_err();
            assert!(message.contains(wrong), "{message}");
        }
    }

    #[test]
    fn numbers_of_workers_are_read() {
        assert!(workers("auto").is_ok_and(|count| count >= 1));
        assert_eq!(workers("3"), Ok(3));
        for text in ["0", "-1", "10001", "many"] {
            assert!(workers(text).is_err(), "{text}");
        }
    }
}
