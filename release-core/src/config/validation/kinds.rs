//! Validations of the kind of a value, of words and of text.

use regex::Regex;

use super::{Invalid, Validation, is_a};
use crate::config::hint::hint;
use crate::config::suggest::nearest;
use crate::config::{Kind, Value};

fn kind(kind: Kind) -> Validation {
    Validation::of_kind(kind, kind.to_string(), |_| Ok(()))
}

/// Requires `true` or `false`.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::bool};
///
/// assert!(bool().accepts(&Value::Bool(true)));
/// assert!(!bool().accepts(&Value::from("text")));
/// ```
#[must_use]
pub fn bool() -> Validation {
    kind(Kind::Bool)
}

/// Requires an integer.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int};
///
/// assert!(int().accepts(&Value::Int(5)));
/// assert!(!int().accepts(&Value::Float(5.0)));
/// ```
#[must_use]
pub fn int() -> Validation {
    kind(Kind::Int)
}

/// Requires a float or an integer.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::float};
///
/// assert!(float().accepts(&Value::Float(0.5)));
/// assert!(!float().accepts(&Value::from("text")));
/// ```
#[must_use]
pub fn float() -> Validation {
    kind(Kind::Float)
}

/// Requires a string. Its escapes may produce bytes that are not UTF-8, as in a path. Use [`utf8`]
/// to exclude them.
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
pub fn string() -> Validation {
    kind(Kind::String)
}

/// Requires a string in UTF-8.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::utf8};
///
/// assert!(utf8().accepts(&Value::from("text")));
/// assert!(!utf8().accepts(&Value::Bytes(vec![0xff])));
/// ```
#[must_use]
pub fn utf8() -> Validation {
    Validation::of_kind(Kind::String, "a string in UTF-8", |value| {
        value.as_str().map(drop).ok_or_else(String::new)
    })
}

/// Requires a regular expression.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, default, validation::regexp};
///
/// assert!(regexp().accepts(&default::regexp("^a")));
/// assert!(!regexp().accepts(&Value::from("^a")));
/// ```
#[must_use]
pub fn regexp() -> Validation {
    kind(Kind::Regexp)
}

/// Requires a duration: `1.5s`, `2m`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::config::{Value, validation::duration};
///
/// assert!(duration().accepts(&Value::from(Duration::from_secs(5))));
/// assert!(!duration().accepts(&Value::Int(5)));
/// ```
#[must_use]
pub fn duration() -> Validation {
    Validation::of_kind(Kind::Duration, "a duration such as 5s", |_| Ok(()))
}

/// Requires a size: `64KiB`.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::size};
///
/// assert!(size().accepts(&Value::Size(65_536)));
/// assert!(!size().accepts(&Value::Int(65_536)));
/// ```
#[must_use]
pub fn size() -> Validation {
    Validation::of_kind(Kind::Size, "a size such as 64KiB", |_| Ok(()))
}

/// Requires an address: `127.0.0.1:80`, `[::1]:80`, `host:80`, `unix:/path`.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, default, validation::address};
///
/// assert!(address().accepts(&default::address("[::1]:80")));
/// assert!(!address().accepts(&Value::from("[::1]:80")));
/// ```
#[must_use]
pub fn address() -> Validation {
    Validation::of_kind(Kind::Address, "an address such as 127.0.0.1:80", |_| Ok(()))
}

/// Requires a file mode: `0640`.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::mode};
///
/// assert!(mode().accepts(&Value::Mode(0o640)));
/// assert!(!mode().accepts(&Value::Int(640)));
/// ```
#[must_use]
pub fn mode() -> Validation {
    Validation::of_kind(Kind::Mode, "a file mode such as 0640", |_| Ok(()))
}

/// Requires the given keyword.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, default, validation::keyword};
///
/// assert!(keyword("auto").accepts(&default::keyword("auto")));
/// assert!(!keyword("auto").accepts(&Value::from("auto")));
/// ```
#[must_use]
pub fn keyword(word: &str) -> Validation {
    keywords([word])
}

/// Requires a keyword from the given list.
///
/// # Examples
///
/// ```
/// use release_core::config::{default, validation::keywords};
///
/// assert!(keywords(["debug", "info"]).accepts(&default::keyword("info")));
/// assert!(!keywords(["debug", "info"]).accepts(&default::keyword("loud")));
/// ```
#[must_use]
pub fn keywords<I: IntoIterator<Item: Into<String>>>(words: I) -> Validation {
    let words: Vec<String> = words.into_iter().map(Into::into).collect();
    let expected = format!("the keyword {}", alternatives(&words));
    Validation::of_kind(Kind::Keyword, expected, move |value| {
        let word = value.as_keyword().unwrap_or_default();
        if words.iter().any(|known| known == word) {
            return Ok(());
        }
        let near = nearest(word, words.iter().map(String::as_str));
        Err(near.map(|near| format!("is it {near}?")).unwrap_or_default())
    })
}

/// Requires a string from the given list.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::string_in};
///
/// assert!(string_in(["http", "https"]).accepts(&Value::from("http")));
/// assert!(!string_in(["http", "https"]).accepts(&Value::from("ftp")));
/// ```
#[must_use]
pub fn string_in<I: IntoIterator<Item: Into<String>>>(texts: I) -> Validation {
    let texts: Vec<Value> = texts.into_iter().map(|text| Value::String(text.into())).collect();
    Validation::of_kind(
        Kind::String,
        format!("the string {}", alternatives(&texts)),
        move |value| {
            if texts.contains(value) { Ok(()) } else { Err(String::new()) }
        },
    )
}

/// Requires a string in which the regular expression is found. Use anchors to match the whole
/// string.
///
/// An invalid pattern accepts no value, and the message contains the reason.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::string_matching};
///
/// assert!(string_matching("^[a-z]+$").accepts(&Value::from("abc")));
/// assert!(!string_matching("^[a-z]+$").accepts(&Value::from("ABC")));
/// ```
#[must_use]
pub fn string_matching(pattern: &str) -> Validation {
    let expected = format!("a string that matches /{pattern}/");
    let regex = Regex::new(pattern);
    Validation::of_kind(Kind::String, expected, move |value| match &regex {
        Ok(regex) if value.as_str().is_some_and(|text| regex.is_match(text)) => Ok(()),
        Ok(_) => Err(String::new()),
        Err(_) => Err("the program's pattern is no regular expression".to_owned()),
    })
}

/// Requires a list whose elements all pass the given validation.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, default, validation::{int, int_in_range, keyword, list_of}};
///
/// let ports = list_of(int_in_range(1..=65535));
/// assert!(ports.accepts(&Value::from(vec![80, 443])));
/// assert!(!ports.accepts(&Value::from(vec![80, 0])));
///
/// let pinned = list_of(int().or(keyword("auto")));
/// assert!(pinned.accepts(&Value::List(vec![Value::Int(1), default::keyword("auto")])));
/// ```
#[must_use]
pub fn list_of(element: Validation) -> Validation {
    let expected = format!("a list, each element {}", element.expected);
    let name = expected.clone();
    let test = move |value: &Value| {
        let Value::List(items) = value else {
            let invalid = Invalid::new(&name, value, "");
            return Err(vec![Invalid { hint: hint(Kind::List, value), ..invalid }]);
        };
        let mut found = Vec::new();
        for (index, item) in items.iter().enumerate() {
            found.extend(element.test(item).err().into_iter().flatten().map(|mut invalid| {
                invalid.path.insert(0, index);
                invalid
            }));
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    };
    Validation { expected, test: std::sync::Arc::new(test) }
}

/// Requires a list of one kind. A list of mixed kinds is reported at the element that differs.
fn list(element: Kind, expected: &str) -> Validation {
    Validation::of_kind(Kind::List, expected, move |value| {
        let items = value.as_list().unwrap_or_default();
        if items.iter().all(|item| is_a(element, item)) { Ok(()) } else { Err(String::new()) }
    })
}

/// Requires a list of booleans.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::bool_list};
///
/// assert!(bool_list().accepts(&Value::from(vec![true, false])));
/// assert!(!bool_list().accepts(&Value::from(vec![1, 2])));
/// ```
#[must_use]
pub fn bool_list() -> Validation {
    list(Kind::Bool, "a list of booleans")
}

/// Requires a list of integers.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int_list};
///
/// assert!(int_list().accepts(&Value::from(vec![1, 2])));
/// assert!(!int_list().accepts(&Value::Int(1)));
/// ```
#[must_use]
pub fn int_list() -> Validation {
    list(Kind::Int, "a list of integers")
}

/// Requires a list of floats and integers.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::float_list};
///
/// assert!(float_list().accepts(&Value::from(vec![0.5, 1.5])));
/// assert!(!float_list().accepts(&Value::from(vec!["a"])));
/// ```
#[must_use]
pub fn float_list() -> Validation {
    list(Kind::Float, "a list of floats")
}

/// Requires a list of strings.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::string_list};
///
/// assert!(string_list().accepts(&Value::from(vec!["a", "b"])));
/// assert!(!string_list().accepts(&Value::from("a")));
/// ```
#[must_use]
pub fn string_list() -> Validation {
    list(Kind::String, "a list of strings")
}

/// Requires a list of keywords.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, default, validation::keyword_list};
///
/// assert!(keyword_list().accepts(&default::keyword_list(["a", "b"])));
/// assert!(!keyword_list().accepts(&Value::from(vec!["a", "b"])));
/// ```
#[must_use]
pub fn keyword_list() -> Validation {
    list(Kind::Keyword, "a list of keywords")
}

/// Formats `a`, `a or b`, `a, b or c`.
pub(super) fn alternatives<T: std::fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let separator = match items.len() - index {
            _ if index == 0 => "",
            1 => " or ",
            _ => ", ",
        };
        text.push_str(separator);
        text.push_str(&item.to_string());
    }
    text
}
