//! Validations of values, to be passed to [`Key::check`](super::Key::check).
//!
//! Each examines only the value. A key may have several validations, and all must hold. They
//! compose: `list_of(string().and(existing_user()))`, `int().or(keyword("auto"))`. To write your
//! own, pass a closure and a description of the expected value to [`Validation::new`].
//!
//! | subject | validations |
//! |---|---|
//! | kinds | [`bool()`] [`int`] [`float`] [`string`] [`utf8`] [`regexp`] [`duration`] [`size`] [`address`] [`mode`] |
//! | lists | [`list_of`] [`bool_list`] [`int_list`] [`float_list`] [`string_list`] [`keyword_list`] |
//! | words | [`keyword`] [`keywords`] |
//! | numbers | [`int_in_range`] [`int_greater_than`] [`int_less_than`] [`int_in`] [`float_in_range`] [`float_greater_than`] [`float_less_than`] |
//! | amounts | [`duration_in_range`] [`size_in_range`] |
//! | text | [`string_matching`] [`string_in`] |
//! | files | [`existing_file`] [`nonempty_file`] [`file_with_mode`] [`file_with_owner`] [`file_with_group`] [`existing_directory`] [`existing_dirname`] [`block_device`] [`character_device`] [`symbolic_link`] [`named_pipe`] [`unix_socket`] |
//! | accounts | [`existing_user`] [`unprivileged_user`] [`existing_group`] |
//!
//! Files and accounts are looked up when the configuration is loaded, with the rights of the
//! process that loads it. Links are followed, except by [`symbolic_link`]. The result may be
//! outdated when you open the file later.
//!
//! # Examples
//!
//! ```
//! use release_core::config::{Config, Spec, key};
//! use release_core::config::validation::{Validation, int, keyword, list_of};
//!
//! let even = Validation::new("an even number", |value| {
//!     value.as_int().is_some_and(|number| number % 2 == 0)
//! });
//! let spec = Spec::new()
//!     .key(key("numbers").check(list_of(even)))
//!     .key(key("threads").check(int().or(keyword("auto"))));
//!
//! assert!(Config::parse("x", "numbers = [2, 4] threads = auto", &spec).is_ok());
//! let errors = Config::parse("x", "numbers = [2, 3] threads = 'auto'", &spec).unwrap_err();
//! let message = "`numbers`: expected an even number, found 3";
//! assert_eq!(errors.problems()[0].message(), message);
//! ```

mod accounts;
mod files;
mod kinds;
mod numbers;
mod unchecked;

use std::fmt;
use std::sync::Arc;

use super::hint::hint;
use super::{Kind, Value};

pub use accounts::{existing_group, existing_user, unprivileged_user};
pub use files::{
    block_device, character_device, existing_directory, existing_dirname, existing_file,
    file_with_group, file_with_mode, file_with_owner, named_pipe, nonempty_file, symbolic_link,
    unix_socket,
};
pub use kinds::{
    address, bool, bool_list, duration, float, float_list, int, int_list, keyword, keyword_list,
    keywords, list_of, mode, regexp, size, string, string_in, string_list, string_matching, utf8,
};
pub(super) use unchecked::unusual;

pub use numbers::{
    duration_in_range, float_greater_than, float_in_range, float_less_than, int_greater_than,
    int_in, int_in_range, int_less_than, size_in_range,
};

/// A condition on a value, with a description of the expected value.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::{Validation, string}};
///
/// let short = string().and(Validation::new("at most 8 bytes", |value| {
///     value.as_bytes().is_some_and(|bytes| bytes.len() <= 8)
/// }));
/// assert!(short.accepts(&Value::from("x")));
/// assert!(!short.accepts(&Value::from("123456789")));
/// assert!(!short.accepts(&Value::from(5)));
/// ```
#[derive(Clone)]
pub struct Validation {
    expected: String,
    test: Arc<Test>,
}

type Test = dyn Fn(&Value) -> Result<(), Vec<Invalid>> + Send + Sync;

/// The reason why a value, or the element of it at these indices, is wrong.
pub(super) struct Invalid {
    pub(super) path: Vec<usize>,
    pub(super) message: String,
    /// The message for a secret value.
    pub(super) discreet: String,
    pub(super) hint: String,
}

impl Invalid {
    fn new(expected: &str, value: &Value, reason: &str) -> Self {
        let separator = if reason.is_empty() { "" } else { ": " };
        let found = value.described();
        let message = format!("expected {expected}, found {found}{separator}{reason}");
        let discreet = format!("expected {expected}; the value is not shown");
        Self { path: Vec::new(), message, discreet, hint: String::new() }
    }
}

impl Validation {
    /// Creates your own condition. Its message reads: expected `expected`, found the value.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Value, validation::Validation};
    ///
    /// let even = Validation::new("an even number", |value| {
    ///     value.as_int().is_some_and(|number| number % 2 == 0)
    /// });
    /// assert!(even.accepts(&Value::Int(2)));
    /// ```
    pub fn new<F>(expected: impl Into<String>, test: F) -> Self
    where
        F: Fn(&Value) -> bool + Send + Sync + 'static,
    {
        Self::explained(
            expected,
            move |value| if test(value) { Ok(()) } else { Err(String::new()) },
        )
    }

    /// Creates your own condition that explains why a value does not fulfil it. The message ends
    /// with the text of the error.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::validation::Validation;
    ///
    /// let url = Validation::explained("a URL", |value| match value.as_str() {
    ///     Some(text) if text.starts_with("https://") => Ok(()),
    ///     _ => Err("only https can be used".to_owned()),
    /// });
    /// ```
    pub fn explained<F>(expected: impl Into<String>, test: F) -> Self
    where
        F: Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    {
        let expected = expected.into();
        let name = expected.clone();
        let test = move |value: &Value| {
            test(value).map_err(|reason| vec![Invalid::new(&name, value, &reason)])
        };
        Self { expected, test: Arc::new(test) }
    }

    /// Creates a condition on values of one kind. Values of other kinds get a hint.
    fn of_kind<F>(kind: Kind, expected: impl Into<String>, test: F) -> Self
    where
        F: Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    {
        let inner = Self::explained(expected, test);
        let (expected, name) = (inner.expected.clone(), inner.expected.clone());
        let test = move |value: &Value| {
            if is_a(kind, value) {
                return (inner.test)(value);
            }
            let invalid = Invalid::new(&name, value, "");
            Err(vec![Invalid { hint: hint(kind, value), ..invalid }])
        };
        Self { expected, test: Arc::new(test) }
    }

    /// Requires both conditions.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Value, validation::{int_greater_than, int_less_than}};
    ///
    /// let digit = int_greater_than(-1).and(int_less_than(10));
    /// assert!(digit.accepts(&Value::Int(7)));
    /// assert!(!digit.accepts(&Value::Int(10)));
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let expected = format!("{} and {}", self.expected, other.expected);
        let test = move |value: &Value| (self.test)(value).and_then(|()| (other.test)(value));
        Self { expected, test: Arc::new(test) }
    }

    /// Requires at least one of the conditions.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Value, default, validation::{int, keyword}};
    ///
    /// let threads = int().or(keyword("auto"));
    /// assert!(threads.accepts(&Value::Int(4)));
    /// assert!(threads.accepts(&default::keyword("auto")));
    /// assert!(!threads.accepts(&Value::from("auto")));
    /// ```
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let expected = format!("{} or {}", self.expected, other.expected);
        let name = expected.clone();
        let test = move |value: &Value| {
            if self.accepts(value) || other.accepts(value) {
                Ok(())
            } else {
                Err(vec![Invalid::new(&name, value, "")])
            }
        };
        Self { expected, test: Arc::new(test) }
    }

    /// Returns whether the value fulfils the condition.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Value, validation::string};
    ///
    /// assert!(string().accepts(&Value::from("text")));
    /// assert!(!string().accepts(&Value::Int(5)));
    /// ```
    #[must_use]
    pub fn accepts(&self, value: &Value) -> bool {
        self.test(value).is_ok()
    }

    pub(super) fn test(&self, value: &Value) -> Result<(), Vec<Invalid>> {
        (self.test)(value)
    }
}

/// Returns whether the value is of the kind. An integer is accepted where a float is expected.
fn is_a(kind: Kind, value: &Value) -> bool {
    value.kind() == kind || kind == Kind::Float && value.kind() == Kind::Int
}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Validation").field(&self.expected).finish()
    }
}
