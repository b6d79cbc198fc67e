//! The errors of a configuration file, collected in one pass.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::printable::printable;
use super::source::{Excerpt, SourceText, Span};
use crate::ErrorKind;

/// The message about text that is never shown.
const HIDDEN: &str = "this is wrong in or behind the value of a secret key, which is not shown";

/// Maximum number of reported errors; further errors are only counted.
const SHOWN: usize = 100;

/// The errors of a configuration, in the order of the file.
///
/// In the printed form, each error begins a line with `file:line:column`, as compilers do and
/// editors understand, followed by the line of the file and a caret. After 100 errors the rest is
/// counted. The type converts into [`crate::Error`], so your `main` may return it with `?`.
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
    /// Returns the errors, at most 100.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].message(), "unknown key `prot`; is it `port`?");
    /// ```
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns the total number of errors.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
    /// assert_eq!(errors.count(), 1);
    /// ```
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len() + self.more
    }

    /// Creates the error of a file that cannot be read at all.
    #[cold]
    pub(super) fn of_file(name: &str, message: impl fmt::Display) -> Self {
        let file = printable(name).into();
        let problem = Problem { file, message: message.to_string(), ..Problem::default() };
        Self { problems: vec![problem], more: 0 }
    }

    /// Creates an error at a line and column that do not come from a [`Span`].
    #[cold]
    pub(super) fn at(name: &str, at: (usize, usize), message: String, excerpt: Excerpt) -> Self {
        let mut errors = Self::of_file(name, message);
        errors.problems[0].at = Some(at);
        errors.problems[0].excerpt = Some(excerpt);
        errors
    }
}

/// One error in a configuration, or a warning about it.
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Spec, key};
///
/// let spec = Spec::new().key(key("port"));
/// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
/// for problem in errors.problems() {
///     eprintln!("{problem}");
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    file: Arc<str>,
    at: Option<(usize, usize)>,
    message: String,
    hint: Option<String>,
    excerpt: Option<Excerpt>,
    /// The number of the file, for the order.
    order: usize,
    /// A hint could show a secret.
    is_secret: bool,
    level: Level,
}

/// The consequence of a [`Problem`].
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Level, Spec, key};
///
/// let spec = Spec::new().key(key("user")).key(key("port"));
/// let config = Config::parse("web.conf", "user = \"${USER}\" port = 80", &spec)?;
/// assert_eq!(config.warnings()[0].level(), Level::Warning);
/// # Ok::<(), release_core::config::Errors>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The configuration is refused.
    #[default]
    Error,
    /// The configuration is accepted, but may not mean the intended.
    Warning,
}

impl Problem {
    /// Returns whether the configuration is refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Level, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port =", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].level(), Level::Error);
    /// ```
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Returns the line in the file, from 1, if the error has a position there.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].line(), Some(2));
    /// ```
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.at.map(|(line, _)| line)
    }

    /// Returns the column in characters, from 1, if the error has a position in the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].column(), Some(1));
    /// ```
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.at.map(|(_, column)| column)
    }

    /// Returns the error message, one line that is safe to print.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let errors = Config::parse("web.conf", "port = 80\nprot = 81", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].message(), "unknown key `prot`; is it `port`?");
    /// ```
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns a suggested correction, if there is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().section("web", [key("port")]);
    /// let errors = Config::parse("web.conf", "port = 80 [web]", &spec).unwrap_err();
    /// assert_eq!(errors.problems()[0].hint(), Some("it belongs to [web]"));
    /// ```
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds a suggested correction. An empty text adds none.
    pub(super) fn hinted(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty() && !self.is_secret);
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        let level = match self.level {
            Level::Error => "",
            Level::Warning => "warning: ",
        };
        write!(f, ": {level}{}", self.message)?;
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

/// Collects errors while a file is checked.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    source: &'a SourceText,
    file: Arc<str>,
    found: Vec<Problem>,
    more: usize,
    warnings: Vec<Problem>,
    /// Discards errors beyond the limit, which are only counted.
    uncounted: Problem,
}

impl<'a> Problems<'a> {
    pub(super) fn new(source: &'a SourceText) -> Self {
        let file = Arc::clone(source.name(&Span::START));
        let (found, warnings) = (Vec::new(), Vec::new());
        Self { source, file, found, more: 0, warnings, uncounted: Problem::default() }
    }

    /// Records an error at a position, with a message that is hidden where secrets are if it may
    /// repeat the text.
    pub(super) fn read_at(
        &mut self,
        span: &Span,
        message: impl Into<Cow<'static, str>>,
    ) -> &mut Problem {
        let is_secret = self.source.is_hidden(span);
        let message = match message.into() {
            Cow::Owned(_) if is_secret => HIDDEN.to_owned(),
            message => message.into_owned(),
        };
        let problem = self.at(span, message);
        problem.is_secret = is_secret;
        problem
    }

    /// Records an error at a position, and shows the line.
    pub(super) fn at(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        let excerpt = (!self.is_full()).then(|| self.source.excerpt(span));
        let problem = self.about(span, message);
        problem.excerpt = excerpt;
        problem
    }

    /// Records an error about something missing at a position. There is no text to show.
    pub(super) fn about(&mut self, span: &Span, message: impl Into<String>) -> &mut Problem {
        let at = (!self.is_full()).then(|| (span.line, self.source.column(span)));
        let (file, order) = (Arc::clone(self.source.name(span)), self.source.file(span));
        let problem = self.general(message);
        (problem.at, problem.file, problem.order) = (at, file, order);
        problem
    }

    /// Records an error without a position in the file.
    pub(super) fn general(&mut self, message: impl Into<String>) -> &mut Problem {
        if self.is_full() {
            self.more += 1;
            return &mut self.uncounted;
        }
        let file = Arc::clone(&self.file);
        self.found.push(Problem { file, message: message.into(), ..Problem::default() });
        self.found.last_mut().unwrap_or(&mut self.uncounted)
    }

    /// Records a warning at a position, and shows the line. Warnings beyond the limit are dropped.
    pub(super) fn warn(&mut self, span: &Span, message: String, hint: &str) {
        if self.warnings.len() == SHOWN {
            return;
        }
        let mut problem = Problem {
            file: Arc::clone(self.source.name(span)),
            order: self.source.file(span),
            at: Some((span.line, self.source.column(span))),
            message,
            excerpt: Some(self.source.excerpt(span)),
            level: Level::Warning,
            ..Problem::default()
        };
        problem.hinted(hint);
        self.warnings.push(problem);
    }

    /// Returns whether further errors are only counted and need no good message.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() == SHOWN
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns the warnings in the order of the file, or the errors.
    pub(super) fn result(mut self) -> Result<Vec<Problem>, Errors> {
        self.warnings.sort_by_key(|warning| (warning.order, warning.at));
        if self.is_empty() { Ok(self.warnings) } else { Err(self.errors()) }
    }

    /// Sorts the errors by position; errors without a position come last.
    pub(super) fn errors(mut self) -> Errors {
        let order = |problem: &Problem| problem.at.map(|at| (problem.order, at));
        self.found.sort_by_key(|problem| (problem.at.is_none(), order(problem)));
        Errors { problems: self.found, more: self.more }
    }
}
