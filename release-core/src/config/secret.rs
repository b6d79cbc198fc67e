//! Values that are never shown: their position in a text, and values from other files.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::lex::{blanks_length, word_length};
use super::suggest::nearest;
use super::{Value, quoted, read};

/// Maximum size of the file of a secret.
const SIZE_LIMIT: u64 = 64 * 1024;

/// Returns the parts of the text that may be values of these keys, whether it is well formed or not.
///
/// A part ends with the line on which the value ends, because the end of a malformed value is
/// uncertain. A misspelt name counts, because the report of it shows the line.
pub(super) fn hidden(text: &str, keys: &[&str]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(skipped) = text[at..].find(|first: char| first.is_ascii_alphabetic()) {
        let start = at + skipped;
        at = start + word_length(&text[start..]);
        let name = text[start..at].split(':').next().unwrap_or_default();
        if keys.contains(&name) || nearest(name, keys.iter().copied()).is_some() {
            let value = value(text, start + name.len(), at);
            // Another key may follow on the line, with a value of several lines.
            at = value.end;
            let end = at + text[at..].find('\n').unwrap_or(text.len() - at);
            match found.last_mut().filter(|last| last.end >= value.start) {
                Some(last) => last.end = last.end.max(end),
                None => found.push(value.start..end),
            }
        }
    }
    found
}

/// Returns the value behind a key. The key is the beginning of a word, or the whole of it.
fn value(text: &str, key_end: usize, word_end: usize) -> Range<usize> {
    let skip = |at: usize| at + blanks_length(&text[at..]);
    let (mut from, mut at) = (key_end, skip(word_end));
    if text[at..].starts_with('=') {
        at = skip(at + 1);
        from = at;
    }
    let word = at + word_length(&text[at..]);
    if word > at && text[skip(word)..].starts_with('=') {
        // The next key: there is no value.
        return key_end..word_end;
    }
    let mut depth = 0;
    loop {
        let Some(first) = text[at..].chars().next() else { return from..text.len() };
        let length = match first {
            '"' | '/' => quoted::length(&text[at..], first).unwrap_or(text.len() - at),
            _ => word_length(&text[at..]).max(first.len_utf8()),
        };
        match first {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        at += length;
        if depth <= 0 {
            return from..at;
        }
        at = skip(at);
    }
}

/// A secret that was read from a file of its own.
pub(super) struct External {
    pub(super) value: Value,
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// Reads the secret that the value of a key refers to: `file:/path`, or `credential:name` for a
/// file in the directory that the service manager names in `$CREDENTIALS_DIRECTORY`. Returns `None`
/// if the value is the secret itself.
pub(super) fn external(value: &Value) -> Option<Result<External, String>> {
    let word = value.as_keyword()?;
    let path = if let Some(path) = word.strip_prefix("file:") {
        absolute(path)
    } else {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
        credential(word.strip_prefix("credential:")?, directory.as_deref())
    };
    Some(path.and_then(contents))
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    match Path::new(path) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err("the file of a secret has an absolute path, file:/like/this".to_owned()),
    }
}

fn credential(name: &str, directory: Option<&OsStr>) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("a credential is the name of a file, without a directory".to_owned());
    }
    let directory = directory.filter(|directory| Path::new(directory).is_absolute());
    let directory = directory.ok_or(
        "the service manager passes no credentials: $CREDENTIALS_DIRECTORY is not set to a path",
    )?;
    Ok(Path::new(directory).join(name))
}

/// Returns the content of the file without the line break at its end.
fn contents(path: PathBuf) -> Result<External, String> {
    let bytes = read::bytes(&path, SIZE_LIMIT, &read::SECRET)
        .map_err(|message| format!("{}: {message}", path.display()))?;
    let content = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let value = match String::from_utf8(content.to_vec()) {
        Ok(text) => Value::String(text),
        Err(error) => Value::Bytes(error.into_bytes()),
    };
    Ok(External { value, path, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_of_one_directory() {
        let directory = Some(OsStr::new("/run/credentials/x.service"));
        let path = credential("db", directory);
        assert_eq!(path, Ok(PathBuf::from("/run/credentials/x.service/db")));
        for name in ["", "..", ".", "a/b", "../x"] {
            assert!(credential(name, directory).is_err(), "{name}");
        }
        assert!(credential("db", None).is_err());
        assert!(credential("db", Some(OsStr::new(""))).is_err());
    }

    #[test]
    fn hidden_parts() {
        for (text, shown) in [
            ("password = \"x\"\nport = 80", "password = \nport = 80"),
            ("password: x", "password"),
            ("pasword \"x\" y\nb", "pasword\nb"),
            ("a = 1 password =\n\"x\ny\" z\nb", "a = 1 password =\n\nb"),
            ("password =\nport = 80", "password\nport = 80"),
            ("password = [\"]\", \"y\",\n\"z\"]\nb", "password = \nb"),
            ("password = \"x\nb", "password = "),
            ("password = # note\n x\nb", "password = # note\n \nb"),
            ("password = x password = [y,\ny\n]\nb", "password = \nb"),
            ("port = 80", "port = 80"),
        ] {
            let mut left = text.to_owned();
            for range in hidden(text, &["password"]).into_iter().rev() {
                left.replace_range(range, "");
            }
            assert_eq!(left, shown, "{text}");
        }
    }
}
