//! `TestFailure`: what went wrong, and what the program had logged.

use std::fmt;

/// The reason why a step of a test failed, with the last part of the program's log.
///
/// Its `Debug` form is its text too, so that `unwrap` and a test that returns a `Result` show it as it is.
///
/// # Examples
///
/// ```
/// use release_core::testing::Program;
///
/// let program = Program::new("/bin/sh").args(["-c", "echo no database; exit 1"]).ready_line("up");
/// let text = program.start().unwrap_err().to_string();
/// assert!(text.contains("sh ended before it was ready: exit status 1"), "{text}");
/// assert!(text.contains("no database"), "{text}");
/// ```
#[derive(Clone)]
pub struct TestFailure {
    what: String,
    log: Option<String>,
}

/// Maximum length of the log in a message, in bytes. The end is the interesting part.
const LOG_LENGTH: usize = 64 * 1024;

impl TestFailure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), log: None }
    }

    pub(super) fn with_log(mut self, log: &str) -> Self {
        let mut start = log.len().saturating_sub(LOG_LENGTH);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        self.log = Some(log[start..].to_owned());
        self
    }
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.log.as_deref().map(str::trim_end) {
            None => Ok(()),
            Some("") => f.write_str("\n--- the log is empty ---"),
            Some(log) => write!(f, "\n--- log ---\n{log}\n--- end of the log ---"),
        }
    }
}

impl fmt::Debug for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for TestFailure {}
