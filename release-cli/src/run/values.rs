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
use release_core::{OutputFormat, Readiness, StopSignal, WorkerInfo};

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
            Some(number) => number
                .parse()
                .map(Self::Descriptor)
                .map_err(|_| format!("`{number}` is not the number of a descriptor")),
            None => uri.parse().map(Self::On).map_err(|error: release_core::Error| error.report()),
        }
    }
}

/// The directory may change before the first worker is started; links stay links.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("it has no name".to_owned()) } else { Ok(text.into()) }
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

pub(super) fn respawn(text: &str) -> Result<Respawn, String> {
    match text {
        "always" => Ok(Respawn::Always),
        "on-failure" => Ok(Respawn::OnFailure),
        "never" => Ok(Respawn::Never),
        _ => Err("it is always, on-failure or never".to_owned()),
    }
}

/// A parser whose values, or some of them, a shell can complete.
#[derive(Clone)]
pub(super) struct Hinted<T: 'static> {
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

pub(super) const STOP_SIGNAL: Hinted<StopSignal> = Hinted {
    parse: |text| text.parse().map_err(|error: release_core::Error| error.report()),
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
    fn what_a_shell_completes_is_taken() {
        assert!(READINESS.hints.iter().all(|hint| readiness(hint).is_ok()));
        assert!(RESPAWN.hints.iter().all(|hint| respawn(hint).is_ok()));
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
    fn readiness_is_read() {
        assert_eq!(readiness("fd"), Ok(Readiness::Newline(None)));
        assert_eq!(readiness("fd:9"), Ok(Readiness::Newline(Some(9))));
        assert_eq!(readiness("0.5"), Ok(Readiness::After(Duration::from_millis(500))));
        for text in ["fd:", "fd:x", "soon", ""] {
            assert!(readiness(text).is_err(), "{text}");
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
