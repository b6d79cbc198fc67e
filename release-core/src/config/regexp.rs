//! Regular expressions in configuration files.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de};

use super::printable::is_hidden;

/// The pattern may have so many bytes: what the compiler makes of it first takes a hundred times more.
const LENGTH_LIMIT: usize = 64 * 1024;

/// The compiled form may take so many bytes: `/(a{1000}){1000}/` is refused, not compiled.
const SIZE_LIMIT: usize = 1024 * 1024;

/// How deep groups may be nested: the compiler recurses.
const NEST_LIMIT: u32 = 100;

/// A regular expression, compiled by the `regex` crate: matching takes linear time.
///
/// In a file it stands between slashes. A slash within is written `\/`; a line break vanishes
/// together with the blanks that follow it, so a long one may be laid out over several lines.
///
/// # Examples
///
/// ```
/// use release_core::config::Regexp;
///
/// let word = Regexp::new("^(foo|bar)$").unwrap();
/// assert!(word.regex().is_match("foo"));
/// assert!(Regexp::new("(?=look)ahead").unwrap_err().to_string().contains("look-around"));
/// ```
#[derive(Clone, Debug)]
pub struct Regexp(Regex);

/// Why a text is no [`Regexp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexpError {
    message: String,
    /// The offset in the pattern, where it is known.
    pub(super) at: Option<usize>,
}

impl Regexp {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// When it is not a regular expression, uses look-around or back-references (which linear time
    /// does not allow), is too large, or holds a character that cannot be seen, such as a line
    /// break.
    pub fn new(pattern: &str) -> Result<Self, RegexpError> {
        let mut characters = pattern.char_indices();
        if let Some((at, hidden)) =
            characters.find(|(_, found)| is_hidden(*found) && *found != '\t')
        {
            let code = u32::from(hidden);
            let message =
                format!("a character that cannot be seen has to be written \\x{{{code:x}}}");
            return Err(RegexpError { message, at: Some(at) });
        }
        if pattern.len() > LENGTH_LIMIT {
            let message = format!("it is too large: it has over {LENGTH_LIMIT} bytes");
            return Err(RegexpError { message, at: None });
        }
        let plain = without_escaped_slashes(pattern);
        let compiled = RegexBuilder::new(&plain)
            .size_limit(SIZE_LIMIT)
            .dfa_size_limit(SIZE_LIMIT)
            .nest_limit(NEST_LIMIT)
            .build();
        compiled.map(Self).map_err(|error| {
            let mut error = RegexpError::explained(&plain, &error);
            error.at = error.at.filter(|_| plain == pattern);
            error
        })
    }

    /// The compiled form.
    #[must_use]
    pub fn regex(&self) -> &Regex {
        &self.0
    }

    /// The pattern, without the slashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// A slash means the same with a backslash and without; only one of them is kept.
fn without_escaped_slashes(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match (character, characters.as_str().chars().next()) {
            ('\\', Some('/')) => {}
            ('\\', Some(escaped)) => {
                plain.extend(['\\', escaped]);
                characters.next();
            }
            _ => plain.push(character),
        }
    }
    plain
}

impl RegexpError {
    #[cold]
    fn explained(pattern: &str, error: &regex::Error) -> Self {
        let regex::Error::Syntax(report) = error else {
            let message = format!("it is too large: compiled it takes over {SIZE_LIMIT} bytes");
            return Self { message, at: None };
        };
        // The report shows the pattern with a caret; its last line says what is wrong.
        let reason = report.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        let impossible = if reason.contains("look-around") {
            Some("look-around (?= ?! ?<= ?<!)")
        } else if reason.contains("backreferences") {
            Some("back-references")
        } else {
            None
        };
        let message = match impossible {
            Some(what) => format!("{what} cannot be used: matching takes linear time here"),
            None => reason.to_owned(),
        };
        let caret = report.lines().find_map(|line| {
            let at = line.strip_prefix("    ")?.find('^')?;
            line.trim_matches([' ', '^']).is_empty().then_some(at)
        });
        let at = caret.and_then(|at| pattern.char_indices().nth(at)).map(|(index, _)| index);
        Self { message, at }
    }
}

/// By their text.
impl PartialEq for Regexp {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Regexp {}

/// Between slashes, as a file has it.
impl fmt::Display for Regexp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.as_str().replace('/', "\\/"))
    }
}

impl fmt::Display for RegexpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RegexpError {}

impl<'de> Deserialize<'de> for Regexp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
