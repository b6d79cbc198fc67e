//! The error of an encoder or a decoder, as serde wants it.

use std::fmt::{self, Display};

mod decode;
mod encode;

pub(crate) use decode::{Depth, decode};
pub(crate) use encode::encode;

/// A payload that is not a message, or a message that has no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(String);

impl CodecError {
    /// The reason in words.
    #[cold]
    #[allow(clippy::needless_pass_by_value)] // Errors are given away: `map_err(CodecError::new)`.
    pub fn new(reason: impl Display) -> Self {
        Self(reason.to_string())
    }
}

impl Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

/// One word, so that a result of it is passed in registers: the error, and whether it is the format's
/// and not the value's own.
#[derive(Debug)]
pub(crate) struct Fault(Box<(CodecError, bool)>);

impl Fault {
    #[cold]
    pub(crate) fn new(reason: impl Display) -> Self {
        Self(Box::new((CodecError::new(reason), true)))
    }

    pub(crate) fn into_error(self) -> CodecError {
        self.0.0
    }

    pub(crate) fn error(&self) -> &CodecError {
        &self.0.0
    }

    /// Whether no value of the kind could be written.
    pub(crate) fn is_of_the_format(&self) -> bool {
        self.0.1
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        Self(Box::new((CodecError::new(reason), false)))
    }
}

impl serde::de::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        serde::ser::Error::custom(reason)
    }
}

impl From<postcard::Error> for Fault {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        Self::new(error)
    }
}

/// How many elements of a message's sequences may take no bytes, those of a `Vec<()>` say: nothing
/// else bounds the work that they are.
pub(crate) const EMPTY: usize = 1024;

/// What a type is missing that was not made for this format.
pub(crate) const NO_KINDS: &str = "postcard does not carry this type, as with serde's `tag`, `untagged` and \
                        `flatten`; take another codec, or another type";

pub(crate) const LEFT_OUT: &str = "postcard carries all fields of a value or none, hence no type with serde's \
                        `skip_serializing_if`; take another codec, or another type";

pub(crate) const UNSIZED: &str = "postcard does not carry what does not say first how long it is, as with \
                       serde's `flatten`; take another codec, or another type";
