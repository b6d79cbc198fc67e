//! What is wrong with a configuration file: all of it at once.

use std::fmt;
use std::sync::Arc;

use super::source::{Excerpt, Source, Span};
use crate::ErrorKind;

/// After so many errors the rest is only counted.
const SHOWN: usize = 100;

/// Everything that is wrong with a configuration, in the order of the file.
///
/// Printed, each error begins a line with `file:line:column`, as compilers do and editors
/// understand, followed by the line of the file and a caret. After 100 errors the rest is counted.
/// It converts into [`crate::Error`], so that a `main` may pass it on with `?`.
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Spec, key, validation::int_in_range};
///
/// let spec = Spec::new().key(key("port").check(int_in_range(1..=65535)));
/// let errors = Config::parse("web.conf", "port = 80000\n", &spec).unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "web.conf:1:8: `port`: expected an integer from 1 to 65535, found 80000\n    \
///          port = 80000\n           ^^^^^"
/// );
/// assert_eq!(errors.problems()[0].column(), Some(8));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    problems: Vec<Problem>,
    more: usize,
}

impl Errors {
    /// The errors, at most 100.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len() + self.more
    }

    /// The one error of a file that cannot be read at all.
    #[cold]
    pub(super) fn of_file(name: &str, message: impl fmt::Display) -> Self {
        let file = Source::new(name, "").name().into();
        let problem = Problem { file, message: message.to_string(), ..Problem::default() };
        Self { problems: vec![problem], more: 0 }
    }

    /// One error at a line and column that are not those of a [`Span`].
    #[cold]
    pub(super) fn at(name: &str, at: (usize, usize), message: String, excerpt: Excerpt) -> Self {
        let mut errors = Self::of_file(name, message);
        errors.problems[0].at = Some(at);
        errors.problems[0].excerpt = Some(excerpt);
        errors
    }
}

/// One error in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    file: Arc<str>,
    at: Option<(usize, usize)>,
    message: String,
    hint: Option<String>,
    excerpt: Option<Excerpt>,
}

impl Problem {
    /// The line in the file, from 1, if the error has a place there.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.at.map(|(line, _)| line)
    }

    /// The column in characters, from 1, if the error has a place in the file.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.at.map(|(_, column)| column)
    }

    /// What is wrong, on one line that is safe to print.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds what to do about it; an empty text is none.
    pub(super) fn hinted(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Errors {}

impl From<Errors> for crate::Error {
    fn from(errors: Errors) -> Self {
        let message = match errors.count() {
            1 => format!("an error in the configuration:\n{errors}"),
            count => format!("{count} errors in the configuration:\n{errors}"),
        };
        Self::new(ErrorKind::Configuration, message)
    }
}

/// Errors while they are being found.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    source: &'a Source,
    file: Arc<str>,
    found: Vec<Problem>,
    more: usize,
    /// Where those go that are only counted.
    uncounted: Problem,
}

impl<'a> Problems<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        let file = source.name().into();
        Self { source, file, found: Vec::new(), more: 0, uncounted: Problem::default() }
    }

    /// Notes an error at a place, with the line shown.
    pub(super) fn at(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        let excerpt = (!self.is_full()).then(|| self.source.excerpt(span));
        let problem = self.about(span, message);
        problem.excerpt = excerpt;
        problem
    }

    /// Notes an error about something that is missing at a place: there is nothing to show.
    pub(super) fn about(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        let at = (!self.is_full()).then(|| (span.line, self.source.column(span)));
        let problem = self.general(message);
        problem.at = at;
        problem
    }

    /// Notes an error that has no place in the file.
    pub(super) fn general(&mut self, message: impl Into<String>) -> &mut Problem {
        if self.is_full() {
            self.more += 1;
            return &mut self.uncounted;
        }
        let file = Arc::clone(&self.file);
        self.found.push(Problem { file, message: message.into(), ..Problem::default() });
        self.found.last_mut().unwrap_or(&mut self.uncounted)
    }

    /// Whether further errors are only counted: no need to make a good message.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() == SHOWN
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn result(self) -> Result<(), Errors> {
        if self.is_empty() { Ok(()) } else { Err(self.errors()) }
    }

    /// In the order of the file; what has no place there comes last.
    pub(super) fn errors(mut self) -> Errors {
        self.found.sort_by_key(|problem| problem.at.unwrap_or((usize::MAX, 0)));
        Errors { problems: self.found, more: self.more }
    }
}
