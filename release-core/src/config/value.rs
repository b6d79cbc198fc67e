//! The values that a configuration file can hold, and their written form.

use std::fmt;
use std::time::Duration;

use super::printable::{is_hidden, shortened};
use super::units::{write_duration, write_size};
use super::{Endpoint, Regexp};

/// A value of a configuration file.
///
/// [`Display`](fmt::Display) formats it as it would appear in the file.
///
/// # Examples
///
/// ```
/// use release_core::config::{Kind, Value};
///
/// let value = Value::from(vec!["a", "b"]);
/// assert_eq!(value.kind(), Kind::List);
/// assert_eq!(value.to_string(), r#"["a", "b"]"#);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// An integer: `-5`, `1_000`.
    Int(i64),
    /// A number with a point or an exponent: `0.5`, `1e-3`. Never NaN or infinite in a file.
    Float(f64),
    /// Text in double quotes.
    String(String),
    /// Text in double quotes whose escapes produce bytes that are not UTF-8.
    Bytes(Vec<u8>),
    /// A regular expression between slashes.
    Regexp(Regexp),
    /// A bare word: `debug`.
    Keyword(String),
    /// A number with a unit of time: `1.5s`, `2m`.
    Duration(Duration),
    /// A number with a unit of size, in bytes: `64KiB`, `10MB`.
    Size(u64),
    /// An address to listen on or connect to: `127.0.0.1:80`, `[::1]:80`, `host:80`,
    /// `unix:/run/web.sock`.
    Address(Endpoint),
    /// The permission bits of a file: a zero with three or four octal digits, `0640`.
    Mode(u32),
    /// Values between brackets, of one kind unless a validation accepts others.
    List(Vec<Self>),
}

/// The kind of a [`Value`].
///
/// # Examples
///
/// ```
/// use release_core::config::{Kind, Value};
///
/// assert_eq!(Value::from(80).kind(), Kind::Int);
/// assert_eq!(Kind::Int.to_string(), "an integer");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Int`].
    Int,
    /// [`Value::Float`].
    Float,
    /// [`Value::String`] and [`Value::Bytes`]: both are strings in the file.
    String,
    /// [`Value::Regexp`].
    Regexp,
    /// [`Value::Keyword`].
    Keyword,
    /// [`Value::Duration`].
    Duration,
    /// [`Value::Size`].
    Size,
    /// [`Value::Address`].
    Address,
    /// [`Value::Mode`].
    Mode,
    /// [`Value::List`].
    List,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Int => "an integer",
            Self::Float => "a float",
            Self::String => "a string",
            Self::Regexp => "a regular expression",
            Self::Keyword => "a keyword",
            Self::Duration => "a duration",
            Self::Size => "a size",
            Self::Address => "an address",
            Self::Mode => "a file mode",
            Self::List => "a list",
        })
    }
}

/// Maximum number of characters of a long value shown in a message.
const SHOWN: usize = 60;

impl Value {
    /// Returns the kind of this value.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Kind, Value};
    ///
    /// assert_eq!(Value::from("text").kind(), Kind::String);
    /// ```
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Float(_) => Kind::Float,
            Self::String(_) | Self::Bytes(_) => Kind::String,
            Self::Regexp(_) => Kind::Regexp,
            Self::Keyword(_) => Kind::Keyword,
            Self::Duration(_) => Kind::Duration,
            Self::Size(_) => Kind::Size,
            Self::Address(_) => Kind::Address,
            Self::Mode(_) => Kind::Mode,
            Self::List(_) => Kind::List,
        }
    }

    /// Returns the boolean, if this is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Bool(true);
    /// assert_eq!(value.as_bool(), Some(true));
    /// assert_eq!(Value::Int(1).as_bool(), None);
    /// ```
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// Returns the integer, if this is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Int(80);
    /// assert_eq!(value.as_int(), Some(80));
    /// assert_eq!(Value::Bool(true).as_int(), None);
    /// ```
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// Returns the number, if this is a float or an integer.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// assert_eq!(Value::Float(0.5).as_float(), Some(0.5));
    /// assert_eq!(Value::Int(2).as_float(), Some(2.0));
    /// assert_eq!(Value::Bool(true).as_float(), None);
    /// ```
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "what a float is for")]
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// Returns the text, if this is a string in UTF-8.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::from("text");
    /// assert_eq!(value.as_str(), Some("text"));
    /// assert_eq!(Value::Bytes(vec![0xff]).as_str(), None);
    /// ```
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Returns the bytes of a string, whether they are UTF-8 or not.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Bytes(vec![0xff]);
    /// assert_eq!(value.as_bytes(), Some(&[0xff][..]));
    /// assert_eq!(Value::Bool(true).as_bytes(), None);
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::String(text) => Some(text.as_bytes()),
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the word, if this is a keyword.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Keyword("debug".to_owned());
    /// assert_eq!(value.as_keyword(), Some("debug"));
    /// assert_eq!(Value::from("debug").as_keyword(), None);
    /// ```
    #[must_use]
    pub fn as_keyword(&self) -> Option<&str> {
        if let Self::Keyword(word) = self { Some(word) } else { None }
    }

    /// Returns the regular expression, if this is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Value, default};
    ///
    /// let value = default::regexp("^[a-z]+$");
    /// assert!(value.as_regexp().is_some_and(|regexp| regexp.regex().is_match("abc")));
    /// assert!(Value::from("^[a-z]+$").as_regexp().is_none());
    /// ```
    #[must_use]
    pub fn as_regexp(&self) -> Option<&Regexp> {
        if let Self::Regexp(regexp) = self { Some(regexp) } else { None }
    }

    /// Returns the duration, if this is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::config::Value;
    ///
    /// let value = Value::from(Duration::from_secs(5));
    /// assert_eq!(value.as_duration(), Some(Duration::from_secs(5)));
    /// assert_eq!(Value::Int(5).as_duration(), None);
    /// ```
    #[must_use]
    pub fn as_duration(&self) -> Option<Duration> {
        if let Self::Duration(duration) = self { Some(*duration) } else { None }
    }

    /// Returns the number of bytes, if this is a size.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Size(65_536);
    /// assert_eq!(value.as_size(), Some(65_536));
    /// assert_eq!(Value::Int(65_536).as_size(), None);
    /// ```
    #[must_use]
    pub fn as_size(&self) -> Option<u64> {
        if let Self::Size(bytes) = self { Some(*bytes) } else { None }
    }

    /// Returns the address, if this is one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Endpoint, default};
    ///
    /// let value = default::address("db.example:5432");
    /// assert_eq!(value.as_address(), Some(&Endpoint::Host("db.example".to_owned(), 5432)));
    /// ```
    #[must_use]
    pub fn as_address(&self) -> Option<&Endpoint> {
        if let Self::Address(address) = self { Some(address) } else { None }
    }

    /// Returns the permission bits, if this is a file mode.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::Mode(0o640);
    /// assert_eq!(value.as_mode(), Some(0o640));
    /// assert_eq!(Value::Int(640).as_mode(), None);
    /// ```
    #[must_use]
    pub fn as_mode(&self) -> Option<u32> {
        if let Self::Mode(bits) = self { Some(*bits) } else { None }
    }

    /// Returns the elements, if this is a list.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Value;
    ///
    /// let value = Value::from(vec![80, 443]);
    /// assert_eq!(value.as_list(), Some(&[Value::Int(80), Value::Int(443)][..]));
    /// assert_eq!(Value::Int(80).as_list(), None);
    /// ```
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    /// Describes the value for a message: `the string "x"`, `80`, `an empty list`.
    pub(super) fn described(&self) -> String {
        let kind = match self {
            Self::String(_) | Self::Bytes(_) => "the string ",
            Self::Regexp(_) => "the regular expression ",
            Self::Keyword(_) => "the keyword ",
            Self::Duration(_) => "the duration ",
            Self::Size(_) => "the size ",
            Self::Address(_) => "the address ",
            Self::Mode(_) => "the file mode ",
            Self::List(items) if items.is_empty() => return "an empty list".to_owned(),
            Self::List(_) => "the list ",
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => "",
        };
        let mut start = Head { text: String::new(), room: 4 * (SHOWN + 1) };
        // Formatting stops with an error when the head is full.
        let _ = fmt::write(&mut start, format_args!("{self}"));
        format!("{kind}{}", shortened(&start.text, SHOWN))
    }
}

/// The first bytes of the formatted text: a list of a million elements need not be formatted to
/// show its beginning.
struct Head {
    text: String,
    room: usize,
}

impl fmt::Write for Head {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.text.push_str(piece);
        if self.text.len() < self.room { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            // Always shows a point or an exponent, and reads back as the same value.
            Self::Float(value) => write!(f, "{value:?}"),
            Self::String(text) => write_string(f, text.as_bytes()),
            Self::Bytes(bytes) => write_string(f, bytes),
            Self::Regexp(regexp) => regexp.fmt(f),
            Self::Keyword(word) => f.write_str(word),
            Self::Duration(duration) => write_duration(f, *duration),
            Self::Size(bytes) => write_size(f, *bytes),
            Self::Address(Endpoint::Unix(path)) if !path.chars().all(is_plain) => {
                f.write_str("unix:")?;
                write_string(f, path.as_bytes())
            }
            Self::Address(address) => address.fmt(f),
            Self::Mode(bits) => write!(f, "0{bits:03o}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{item}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// Returns whether the character may be part of a bare word: a name, a keyword, a number, an
/// address.
pub(super) fn is_plain(character: char) -> bool {
    !matches!(character, '#' | '=' | '[' | ']' | ',' | '"')
        && !character.is_whitespace()
        && !is_hidden(character)
}

fn write_string(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("\"")?;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                _ if is_hidden(character) => {
                    write_hex(f, character.encode_utf8(&mut [0; 4]).as_bytes())?;
                }
                _ => write!(f, "{character}")?,
            }
        }
        write_hex(f, chunk.invalid())?;
    }
    f.write_str("\"")
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! {
    bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, &str => String,
    String => String, Regexp => Regexp, Duration => Duration, Endpoint => Address,
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}
