//! Helpers for the defaults of keys, to be passed to [`Key::default`](super::Key::default).
//!
//! Most kinds convert automatically: `key("port").default(80)`. The helpers name the kind
//! explicitly. Keywords, regular expressions and sizes require them.
//!
//! # Examples
//!
//! ```
//! use release_core::config::{default, key};
//!
//! let keys = [
//!     key("log-level").default(default::keyword("info")),
//!     key("names").default(default::regexp("^[a-z]+$")),
//!     key("admins").default(default::string_list(["root"])),
//!     key("buffer").default(default::size(64 << 10)),
//! ];
//! ```

use std::time::Duration;

use super::{Endpoint, Regexp, Value};

/// Creates a keyword.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::keyword("info").to_string(), "info");
/// ```
#[must_use]
pub fn keyword(word: &str) -> Value {
    Value::Keyword(word.to_owned())
}

/// Creates a boolean.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::bool(true).to_string(), "true");
/// ```
#[must_use]
pub fn bool(value: bool) -> Value {
    value.into()
}

/// Creates an integer.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::int(80).to_string(), "80");
/// ```
#[must_use]
pub fn int(value: i64) -> Value {
    value.into()
}

/// Creates a float.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::float(0.5).to_string(), "0.5");
/// ```
#[must_use]
pub fn float(value: f64) -> Value {
    value.into()
}

/// Creates a string.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::string("root").to_string(), r#""root""#);
/// ```
#[must_use]
pub fn string(text: &str) -> Value {
    text.into()
}

/// Creates a regular expression.
///
/// # Panics
///
/// Panics if the pattern is invalid: it is part of the program.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::regexp("^[a-z]+$").to_string(), "/^[a-z]+$/");
/// ```
#[must_use]
#[track_caller]
pub fn regexp(pattern: &str) -> Value {
    match Regexp::new(pattern) {
        Ok(regexp) => regexp.into(),
        Err(error) => panic!("the default /{pattern}/ is no regular expression: {error}"),
    }
}

/// Creates a duration.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::config::default;
///
/// assert_eq!(default::duration(Duration::from_secs(90)).to_string(), "90s");
/// ```
#[must_use]
pub fn duration(value: Duration) -> Value {
    value.into()
}

/// Creates a size in bytes.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::size(65_536).to_string(), "64KiB");
/// ```
#[must_use]
pub fn size(bytes: u64) -> Value {
    Value::Size(bytes)
}

/// Creates a file mode.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::mode(0o640).to_string(), "0640");
/// ```
#[must_use]
pub fn mode(bits: u32) -> Value {
    Value::Mode(bits)
}

/// Creates an address.
///
/// # Panics
///
/// Panics if the text is not an address: it is part of the program.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::address("[::1]:80").to_string(), "[::1]:80");
/// ```
#[must_use]
#[track_caller]
pub fn address(text: &str) -> Value {
    match text.parse::<Endpoint>() {
        Ok(address) => address.into(),
        Err(error) => panic!("the default {text} is no address: {error}"),
    }
}

/// Creates a list of keywords.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::keyword_list(["a", "b"]).to_string(), "[a, b]");
/// ```
#[must_use]
pub fn keyword_list<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    Value::List(words.into_iter().map(keyword).collect())
}

/// Creates a list of booleans.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::bool_list([true, false]).to_string(), "[true, false]");
/// ```
#[must_use]
pub fn bool_list(values: impl IntoIterator<Item = bool>) -> Value {
    Value::List(values.into_iter().map(Value::from).collect())
}

/// Creates a list of integers.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::int_list([80, 443]).to_string(), "[80, 443]");
/// ```
#[must_use]
pub fn int_list(values: impl IntoIterator<Item = i64>) -> Value {
    Value::List(values.into_iter().map(Value::from).collect())
}

/// Creates a list of floats.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::float_list([0.5, 1.0]).to_string(), "[0.5, 1.0]");
/// ```
#[must_use]
pub fn float_list(values: impl IntoIterator<Item = f64>) -> Value {
    Value::List(values.into_iter().map(Value::from).collect())
}

/// Creates a list of strings.
///
/// # Examples
///
/// ```
/// use release_core::config::default;
///
/// assert_eq!(default::string_list(["root"]).to_string(), r#"["root"]"#);
/// ```
#[must_use]
pub fn string_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::List(texts.into_iter().map(Value::from).collect())
}
