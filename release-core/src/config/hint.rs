//! Suggests a correction for a value of the wrong kind.

use super::printable::printable;
use super::{Kind, Value, parse};

/// Maximum length of text repeated in a hint.
const LONGEST: usize = 60;

/// Suggests how to write this value as the expected kind. Returns an empty text if unknown.
pub(super) fn hint(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::String, Value::List(_)) => String::new(),
        (Kind::String, _) => match value.to_string() {
            text if text.len() > LONGEST => "text has to be in quotes".to_owned(),
            text => format!("text has to be in quotes: {}", Value::from(text)),
        },
        (Kind::List, Value::List(_)) => String::new(),
        (Kind::List, _) => "a list has to be in brackets, also when it has one element".to_owned(),
        (Kind::Duration, Value::Int(number)) => {
            format!("a duration has a unit: {number}ms, {number}s, {number}m, {number}h, {number}d")
        }
        (Kind::Size, Value::Int(number)) => {
            format!("a size has a unit: {number}B, {number}KiB, {number}MiB, {number}GiB")
        }
        (Kind::Int | Kind::Float, Value::Mode(bits)) => {
            format!("an integer has no leading zero: {bits:o}")
        }
        (Kind::Mode, Value::Int(number)) => match format!("0{number}") {
            mode if is_written(kind, &mode) => {
                format!("a file mode is octal, and begins with a zero: {mode}")
            }
            _ => String::new(),
        },
        (Kind::Address, Value::Keyword(word)) => match format!("{word}:80") {
            address if is_written(kind, &address) => format!("an address has a port: {address}"),
            _ => String::new(),
        },
        (Kind::Regexp, Value::String(_)) => {
            "a regular expression stands between slashes, /like this/".to_owned()
        }
        (kind, Value::String(text)) if is_written(kind, text) => {
            format!("without the quotes: {}", printable(text))
        }
        _ => String::new(),
    }
}

fn is_written(kind: Kind, text: &str) -> bool {
    text.len() <= LONGEST && parse::value(text).is_some_and(|value| value.kind() == kind)
}
