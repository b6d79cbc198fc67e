//! Text from elsewhere, made safe for a log and a terminal: nothing in it forges a line or commands.

use std::fmt::{self, Write};

/// Lines of a text after the first one begin with this, so that none is taken for a line of the log.
const NEXT_LINE: &str = "\n    ";

/// Adds a line to a text: control characters are said in letters, tabs stay.
pub(crate) fn append(text: &mut Vec<u8>, line: &[u8]) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Most lines have nothing to be looked at closely.
    let is_plain = line
        .iter()
        .fold(true, |is_plain, byte| is_plain & (matches!(byte, b' '..=b'~') | (*byte == b'\t')));
    if is_plain {
        text.extend_from_slice(line);
        return;
    }
    let line = String::from_utf8_lossy(line);
    let mut buffer = [0; 4];
    for letter in line.chars() {
        if letter.is_control() && letter != '\t' {
            text.extend(letter.escape_debug().map(|letter| letter as u8));
        } else {
            text.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
        }
    }
}

/// Writes a text of one or more lines into a line of the log.
pub(crate) struct Lines<'a>(pub(crate) &'a mut dyn Write);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '\n' => self.0.write_str(NEXT_LINE)?,
                '\t' => self.0.write_char(letter)?,
                _ if letter.is_control() => write!(self.0, "{}", letter.escape_debug())?,
                _ => self.0.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forged() {
        let safe = |line: &[u8]| {
            let mut text = Vec::new();
            append(&mut text, line);
            String::from_utf8(text).unwrap()
        };
        assert_eq!(safe(b"plain\tline \xc3\xa9"), "plain\tline \u{e9}");
        assert_eq!(safe(b"from Windows\r"), "from Windows");
        assert_eq!(safe(b"a\rb\x1b[2Jc\0\x7f\xc2\x9b"), "a\\rb\\u{1b}[2Jc\\0\\u{7f}\\u{9b}");
        assert_eq!(safe(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn lines_of_a_message_stand_apart_from_those_of_the_log() {
        let mut text = String::new();
        write!(Lines(&mut text), "a\n2026 INFO b\r\x1b[31m").unwrap();
        assert_eq!(text, "a\n    2026 INFO b\\r\\u{1b}[31m");
    }
}
