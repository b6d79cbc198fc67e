//! Bare words that begin like numbers: integers, floats, durations, sizes, file modes
//! and numeric addresses.

use std::time::Duration;

use super::printable::shortened;
use super::units::{SIZES, TIMES};
use super::{Endpoint, Value};

const UNITS: &str = "units of time are ms, s, m, h, d; of size B, KB, MB, GB, TB (1000) and KiB, MiB, GiB, TiB (1024)";

/// Parses a word that begins with a digit, a minus or a point. Returns its value, or the error.
pub(super) fn parse(word: &str) -> Result<Value, String> {
    if let Some(address) = Endpoint::recognize(word) {
        return address.map(Value::Address).map_err(|error| error.to_string());
    }
    let number = NumberParts::split(word).ok_or_else(|| unknown(word))?;
    match number.unit {
        "" if number.fraction.is_none() && number.exponent.is_empty() => match mode(word) {
            Some(bits) => Ok(Value::Mode(bits)),
            None => integer(&number),
        },
        "" => float(&number),
        unit => with_unit(&number, unit),
    }
}

fn unknown(word: &str) -> String {
    let reason = if word.contains(':') {
        "an IPv4 address with a port is written 127.0.0.1:80"
    } else if word.parse::<std::net::IpAddr>().is_ok() {
        "an address needs a port, as in 127.0.0.1:80; without one it is text, which has to be in quotes"
    } else if word.starts_with("0x") || word.starts_with("0o") || word.starts_with("0b") {
        "numbers are written in decimal"
    } else if word.ends_with('.') {
        "a digit has to follow the point"
    } else if word.contains('_') {
        "an underscore in a number stands between two digits"
    } else {
        "it is neither a number nor one with a unit such as 5s or 64KiB; text has to be in quotes"
    };
    reason.to_owned()
}

/// The parts of a word. The underscores are removed from the digits.
struct NumberParts<'a> {
    negative: bool,
    whole: String,
    fraction: Option<String>,
    /// Includes the `e`, the sign and the digits.
    exponent: &'a str,
    unit: &'a str,
}

impl<'a> NumberParts<'a> {
    fn split(word: &'a str) -> Option<Self> {
        let (negative, rest) = match word.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        let (whole, rest) = digits(rest)?;
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => digits(rest).map(|(digits, rest)| (Some(digits), rest))?,
            None => (None, rest),
        };
        if whole.is_empty() && fraction.as_ref().is_none_or(String::is_empty)
            || fraction.as_ref().is_some_and(String::is_empty)
        {
            return None;
        }
        let (exponent, unit) = rest.split_at(exponent_length(rest));
        let is_unit = unit.chars().all(|character| character.is_ascii_alphabetic());
        let number = Self { negative, whole, fraction, exponent, unit };
        is_unit.then_some(number)
    }

    /// Multiplies the number by a factor, if the result is an integer in range.
    fn times(&self, factor: u64) -> Result<u128, Inexact> {
        let fraction = self.fraction.as_deref().unwrap_or_default().trim_end_matches('0');
        let places = u32::try_from(fraction.len()).map_err(|_| Inexact::TooFine)?;
        let scale = 10_u128.checked_pow(places).ok_or(Inexact::TooFine)?;
        let parse = |digits: &str| match digits {
            "" => Ok(0),
            digits => digits.parse::<u128>().map_err(|_| Inexact::TooLarge),
        };
        let part = parse(fraction)?.checked_mul(factor.into()).ok_or(Inexact::TooFine)?;
        if part % scale != 0 {
            return Err(Inexact::TooFine);
        }
        let whole = parse(&self.whole)?.checked_mul(factor.into()).ok_or(Inexact::TooLarge)?;
        whole.checked_add(part / scale).ok_or(Inexact::TooLarge)
    }
}

enum Inexact {
    TooFine,
    TooLarge,
}

/// Splits off the leading digits, with underscores allowed between two digits.
fn digits(text: &str) -> Option<(String, &str)> {
    let length = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'_').count();
    let (digits, rest) = text.split_at(length);
    let sound = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    sound.then(|| (digits.replace('_', ""), rest))
}

fn exponent_length(text: &str) -> usize {
    let Some(rest) = text.strip_prefix(['e', 'E']) else { return 0 };
    let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let count = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 { 0 } else { text.len() - unsigned.len() + count }
}

/// Parses a zero with three or four octal digits.
fn mode(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('0').filter(|digits| matches!(digits.len(), 3 | 4))?;
    u32::from_str_radix(digits, 8).ok()
}

fn integer(number: &NumberParts<'_>) -> Result<Value, String> {
    // Other languages read it as octal.
    if number.whole.len() > 1 && number.whole.starts_with('0') {
        let decimal = match number.whole.trim_start_matches('0') {
            "" => "0",
            decimal => decimal,
        };
        return Err(format!(
            "an integer has no leading zero, as in {}; a file mode has three or four octal digits \
             after it, as in 0640",
            shortened(decimal, 20)
        ));
    }
    let sign = if number.negative { "-" } else { "" };
    format!("{sign}{}", number.whole)
        .parse()
        .map(Value::Int)
        .map_err(|_| format!("an integer is from {} to {}", i64::MIN, i64::MAX))
}

fn float(number: &NumberParts<'_>) -> Result<Value, String> {
    let sign = if number.negative { "-" } else { "" };
    let fraction = number.fraction.as_deref().unwrap_or("0");
    let text = format!("{sign}{}.{fraction}{}", number.whole, number.exponent);
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Float(value)),
        _ => Err(format!("a float is from {:e} to {:e}", f64::MIN, f64::MAX)),
    }
}

fn with_unit(number: &NumberParts<'_>, unit: &str) -> Result<Value, String> {
    let find = |units: &[(&str, u64)]| units.iter().find(|(name, _)| *name == unit).map(|u| u.1);
    if let Some(nanoseconds) = find(&TIMES) {
        plain(number, "a duration").and_then(|()| duration(number, nanoseconds))
    } else if let Some(bytes) = find(&SIZES) {
        plain(number, "a size").and_then(|()| size(number, bytes))
    } else {
        Err(format!("`{}` is no unit: {UNITS}", shortened(unit, 20)))
    }
}

fn plain(number: &NumberParts<'_>, what: &str) -> Result<(), String> {
    match number {
        NumberParts { negative: true, .. } => Err(format!("{what} is not negative")),
        NumberParts { exponent: "", .. } => Ok(()),
        _ => Err(format!("{what} is written without an exponent")),
    }
}

fn duration(number: &NumberParts<'_>, unit: u64) -> Result<Value, String> {
    const SECOND: u128 = 1_000_000_000;
    let too_long = || format!("a duration is at most {}s", u64::MAX);
    let nanoseconds = number.times(unit).map_err(|inexact| match inexact {
        Inexact::TooFine => "a duration is not finer than a nanosecond".to_owned(),
        Inexact::TooLarge => too_long(),
    })?;
    let seconds = u64::try_from(nanoseconds / SECOND).map_err(|_| too_long())?;
    let rest = u32::try_from(nanoseconds % SECOND).map_err(|_| too_long())?;
    Ok(Value::Duration(Duration::new(seconds, rest)))
}

fn size(number: &NumberParts<'_>, unit: u64) -> Result<Value, String> {
    let too_large = || format!("a size is at most {}B", u64::MAX);
    let bytes = number.times(unit).map_err(|inexact| match inexact {
        Inexact::TooFine => "a size is a whole number of bytes".to_owned(),
        Inexact::TooLarge => too_large(),
    })?;
    u64::try_from(bytes).map(Value::Size).map_err(|_| too_large())
}
