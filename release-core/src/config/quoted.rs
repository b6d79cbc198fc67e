//! Text between quotes or slashes.

use std::ops::Range;

use super::{Regexp, Value};

/// An error in quoted text, by its offsets from the opening quote.
pub(super) struct Wrong {
    pub(super) at: Range<usize>,
    pub(super) message: String,
}

/// Returns the length of the text including both quotes.
pub(super) fn length(text: &str, quote: char) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            _ if char::from(byte) == quote => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// Returns the value of the text measured by [`length`].
pub(super) fn value(text: &str, quote: char) -> Result<Value, Wrong> {
    let inside = &text[1..text.len() - 1];
    if quote == '"' { string(inside) } else { regexp(inside) }
}

fn string(inside: &str) -> Result<Value, Wrong> {
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(backslash) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..backslash]);
        rest = &rest[backslash..];
        let start = 1 + inside.len() - rest.len();
        let (byte, length) = escape(rest.as_bytes())
            .map_err(|message| Wrong { at: start..start + 4, message: message.to_owned() })?;
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(String::from_utf8(bytes)
        .map_or_else(|error| Value::Bytes(error.into_bytes()), Value::String))
}

/// Returns the byte that an escape denotes, and the length of the escape. A backslash that begins
/// no escape denotes itself.
fn escape(text: &[u8]) -> Result<(u8, usize), &'static str> {
    Ok(match text[1..] {
        [b'n', ..] => (b'\n', 2),
        [b't', ..] => (b'\t', 2),
        [b'b', ..] => (8, 2),
        [b'r', ..] => (b'\r', 2),
        [byte @ (b'\\' | b'"' | b'\'' | b' '), ..] => (byte, 2),
        [b'x', high, low, ..] => match (hex(high), hex(low)) {
            (Some(high), Some(low)) => (high * 16 + low, 4),
            _ => (b'\\', 1),
        },
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
            let byte = u8::try_from(code).map_err(|_| "the escape \\DDD is from \\000 to \\255")?;
            (byte, 4)
        }
        _ => (b'\\', 1),
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| value.try_into().ok())
}

/// A line break is removed together with the blanks that follow it.
fn regexp(inside: &str) -> Result<Value, Wrong> {
    let mut pattern = String::with_capacity(inside.len());
    let mut lines = inside.split('\n');
    let first = lines.next().unwrap_or_default();
    let others = lines.map(|line| line.trim_start_matches([' ', '\t']));
    for line in std::iter::once(first).chain(others) {
        // Removes the first of the two characters that end a line on some systems.
        pattern.push_str(line.strip_suffix('\r').unwrap_or(line));
    }
    Regexp::new(&pattern).map(Value::Regexp).map_err(|error| {
        // Over several lines, an offset in the pattern differs from the offset in the file.
        let at = error.at.filter(|_| pattern.len() == inside.len());
        let found = at.and_then(|at| Some((at, inside[at..].chars().next()?)));
        let at = match found {
            Some((at, character)) => at + 1..at + 1 + character.len_utf8(),
            None => 0..inside.len() + 2,
        };
        Wrong { at, message: format!("in this regular expression: {error}") }
    })
}
