//! Regular expressions in configuration files.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de};

use super::printable::is_hidden;

/// Maximum length of a pattern in bytes: the compiler's intermediate form takes a hundred times
/// more.
const LENGTH_LIMIT: usize = 64 * 1024;

/// Maximum size of the compiled form in bytes: `/(a{1000}){1000}/` is refused, not compiled.
const SIZE_LIMIT: usize = 1024 * 1024;

/// Maximum nesting of groups: the compiler recurses.
const NEST_LIMIT: u32 = 100;

/// A regular expression, compiled by the `regex` crate. Matching takes linear time.
///
/// In a file it is written between slashes. Write `\/` for a slash in the pattern. A line break is
/// removed together with the blanks that follow it, so you may lay a long pattern out over several
/// lines.
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

/// The reason why a text is not a valid [`Regexp`].
///
/// # Examples
///
/// ```
/// use release_core::config::Regexp;
///
/// let error = Regexp::new("(").unwrap_err();
/// assert!(error.to_string().contains("unclosed group"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexpError {
    message: String,
    /// Returns the offset in the pattern, if known.
    pub(super) at: Option<usize>,
}

impl Regexp {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not a regular expression, uses look-around or back-references
    /// (impossible in linear time), is too large, or contains an invisible character such as a line
    /// break.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Regexp;
    ///
    /// assert!(Regexp::new("^[a-z]+$").is_ok());
    /// assert!(Regexp::new("[a-z").is_err());
    /// ```
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

    /// Returns the compiled form.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Regexp;
    ///
    /// let names = Regexp::new("^([a-z]+)[.]example$").unwrap();
    /// let found = names.regex().captures("www.example").unwrap();
    /// assert_eq!(&found[1], "www");
    /// ```
    #[must_use]
    pub fn regex(&self) -> &Regex {
        &self.0
    }

    /// Returns the pattern, without the slashes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Regexp;
    ///
    /// assert_eq!(Regexp::new("^[a-z]+$").unwrap().as_str(), "^[a-z]+$");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Removes the backslash before each slash: both forms mean the same, and only one is kept.
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
        // The report shows the pattern with a caret; its last line contains the reason.
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

/// Compares by text.
impl PartialEq for Regexp {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Regexp {}

/// Formats it between slashes, as in a file.
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
