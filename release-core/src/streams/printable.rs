//! Makes foreign text safe for a log and a terminal: it cannot forge a line or send control codes.

/// Returns a line of foreign text in a form that is safe for a log and a terminal.
///
/// Escapes control characters, except for tabs, so that the line can neither control a terminal
/// nor look like several lines. Removes a carriage return at the end, and replaces bytes that are
/// not UTF-8. [`Workers::output`](crate::Workers::output) passes lines as they are; use
/// this function before you print them.
///
/// # Examples
///
/// ```
/// assert_eq!(release_core::printable(b"r\xc3\xa9sum\xc3\xa9\r"), "r\u{e9}sum\u{e9}");
/// assert_eq!(release_core::printable(b"\x1b[2J"), "\\u{1b}[2J");
/// ```
#[must_use]
pub fn printable(line: &[u8]) -> String {
    let mut text = Vec::new();
    append(&mut text, line);
    String::from_utf8_lossy(&text).into_owned()
}

/// Adds a line to a text. Control characters are escaped as letters; tabs are kept.
pub(crate) fn append(text: &mut Vec<u8>, line: &[u8]) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Most lines contain nothing to escape.
    let is_plain = line
        .iter()
        .fold(true, |is_plain, byte| is_plain & (matches!(byte, b' '..=b'~') | (*byte == b'\t')));
    if is_plain {
        text.extend_from_slice(line);
        return;
    }
    let is_special = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    append_escaped(text, line, is_special, |text, letter| {
        text.extend(letter.escape_debug().map(|letter| letter as u8));
    });
}

/// Adds a line in runs: text between control characters and special ASCII characters is copied
/// unchanged. `escape` writes the special and all control characters. Bytes that are not UTF-8
/// become the replacement character.
pub(crate) fn append_escaped(
    text: &mut Vec<u8>,
    line: &[u8],
    is_special: impl Fn(u8) -> bool,
    escape: impl Fn(&mut Vec<u8>, char),
) {
    // The control characters beyond ASCII begin with this byte.
    const BEHIND_ASCII: u8 = 0xc2;
    for chunk in line.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.bytes().position(|byte| is_special(byte) || byte == BEHIND_ASCII)
        {
            let (run, behind) = rest.split_at(at);
            text.extend_from_slice(run.as_bytes());
            let mut letters = behind.chars();
            match letters.next() {
                Some(letter) if letter.is_ascii() || letter.is_control() => escape(text, letter),
                Some(letter) => {
                    text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                None => break,
            }
            rest = letters.as_str();
        }
        text.extend_from_slice(rest.as_bytes());
        if !chunk.invalid().is_empty() {
            text.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forged() {
        assert_eq!(printable(b"plain\tline \xc3\xa9"), "plain\tline \u{e9}");
        assert_eq!(printable(b"from Windows\r"), "from Windows");
        assert_eq!(printable(b"a\rb\x1b[2Jc\0\x7f\xc2\x9b"), "a\\rb\\u{1b}[2Jc\\0\\u{7f}\\u{9b}");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }

    proptest::proptest! {
        #![proptest_config(crate::cases::cases(1000))]

        #[test]
        fn letter_by_letter_is_the_same(line: Vec<u8>, text: String) {
            for line in [&line, text.as_bytes()] {
                let mut safe = Vec::new();
                append(&mut safe, line);
                let kept = line.strip_suffix(b"\r").unwrap_or(line);
                let mut letters = String::new();
                for letter in String::from_utf8_lossy(kept).chars() {
                    match letter.is_control() && letter != '\t' {
                        true => letters.extend(letter.escape_debug()),
                        false => letters.push(letter),
                    }
                }
                proptest::prop_assert_eq!(String::from_utf8(safe).unwrap(), letters);
            }
        }
    }
}
