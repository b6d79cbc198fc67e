//! Files that a configuration includes, found and read before anything is checked.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Errors;
use super::parse::{self, ParsedEntry};
use super::source::{Place, SourceText, Span};
use super::{Value, read};
use crate::start_files::looked_up;

/// Maximum depth: a file that the main file includes has depth 1.
const DEPTH: usize = 8;

/// Maximum number of files.
const FILES: usize = 256;

/// An include that failed, with its position.
pub(super) type FailedInclude = (Span, String);

/// Appends to the text the files that the values of the key name, and the files that those include.
pub(super) fn expand(
    source: &mut SourceText,
    key: &str,
    limit: u64,
    has_secrets: bool,
) -> Vec<FailedInclude> {
    let main = resolved(source.path(0));
    let mut includes =
        Includes { source, key, limit, has_secrets, seen: vec![main], failures: Vec::new() };
    includes.file(0, 0);
    includes.failures
}

struct Includes<'a> {
    source: &'a mut SourceText,
    key: &'a str,
    /// Maximum size of all files together.
    limit: u64,
    has_secrets: bool,
    seen: Vec<PathBuf>,
    failures: Vec<FailedInclude>,
}

impl Includes<'_> {
    /// Includes the files that a file names.
    fn file(&mut self, index: usize, depth: usize) {
        let globals = parse::globals(self.source, index);
        let is_include =
            |entry: &ParsedEntry| entry.set && self.source.slice(&entry.key) == self.key;
        let values: Vec<_> =
            globals.into_iter().filter(is_include).filter_map(|e| e.value).collect();
        for (value, place) in values {
            self.value(&value, &place, (index, depth));
        }
    }

    /// Includes the files that a value names: a pattern, or a list of them.
    fn value(&mut self, value: &Value, place: &Place, (index, depth): (usize, usize)) {
        let (values, places) = match value {
            Value::List(items) => (items.as_slice(), place.items.as_slice()),
            value => (std::slice::from_ref(value), std::slice::from_ref(place)),
        };
        for (value, place) in values.iter().zip(places) {
            let directory = self.source.path(index).parent().unwrap_or_else(|| Path::new(""));
            let found = match value.as_bytes() {
                Some(pattern) => matching(&directory.join(OsStr::from_bytes(pattern))),
                None => Err(format!(
                    "expected a string or a list of strings, found {}",
                    value.described()
                )),
            };
            let included = found.and_then(|paths| {
                paths.into_iter().try_for_each(|path| self.include(path, depth + 1))
            });
            if let Err(message) = included {
                self.failures.push((place.span.clone(), message));
            }
        }
    }

    fn include(&mut self, path: PathBuf, depth: usize) -> Result<(), String> {
        let about = |message: String| format!("{}: {message}", path.display());
        if depth > DEPTH {
            return Err(about(format!("files include others more than {DEPTH} deep")));
        }
        if self.seen.len() > FILES {
            return Err(about(format!("a configuration includes at most {FILES} files")));
        }
        let real = resolved(&path);
        if self.seen.contains(&real) {
            return Err(about("this file is included twice, or includes itself".to_owned()));
        }
        let left =
            self.limit.saturating_sub(u64::try_from(self.source.text.len()).unwrap_or(u64::MAX));
        let bytes = read::bytes(&path, left, &read::CONFIGURATION).map_err(about)?;
        let text = read::text(&path.to_string_lossy(), bytes, self.has_secrets);
        let text = text.map_err(|errors| first(&errors))?.text;
        self.seen.push(real);
        let index = self.source.append(path, &text);
        self.file(index, depth);
        Ok(())
    }
}

/// Returns the first error in one line.
fn first(errors: &Errors) -> String {
    errors.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Returns the path by which a file is recognized.
fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the files that a pattern names, sorted by name. Only the last part of a pattern contains
/// wildcards.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let Some(name) = pattern.file_name() else {
        return Err("expected the path of a file".to_owned());
    };
    if !name.as_bytes().iter().any(|byte| b"*?".contains(byte)) {
        return Ok(vec![pattern.to_owned()]);
    }
    let directory = match pattern.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let question = format!("configuration files {}", pattern.display());
    let names = looked_up(&question, || names(directory, name.as_bytes())).map_err(|error| {
        format!("cannot list {}: {}", directory.display(), read::reason(&error))
    })?;
    Ok(names.iter().map(|name| directory.join(OsStr::from_bytes(name))).collect())
}

fn names(directory: &Path, pattern: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        // Editors and package managers leave hidden files.
        if !name.as_bytes().starts_with(b".") && is_match(pattern, name.as_bytes()) {
            names.push(name.as_bytes().to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns whether the name has the form of the pattern: `*` stands for any text, `?` for one byte.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // The last star, and the end of the text for which it stands.
    let mut star = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, end)) = star else { return false };
                star = Some((place, end + 1));
                (at, from) = (place + 1, end + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::is_match;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*.conf", "a.conf.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xxaxxb", true),
            ("*a*b*", "xxbxxa", false),
            ("*ab", "aab", true),
            ("", "a", false),
        ] {
            assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
