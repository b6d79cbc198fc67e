//! Postcard's format: its encoder, its decoder, and their errors.

use std::fmt::{self, Display};

mod decode;
mod encode;

pub(crate) use decode::{Depth, decode};
pub(crate) use encode::encode;

/// The error of encoding or decoding a message.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{Codec, CodecError, Text};
///
/// let result: Result<u8, CodecError> = Text.decode(b"300");
/// assert!(result.is_err_and(|error| error.to_string().contains("too large")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(String);

impl CodecError {
    /// Creates an error with a reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::CodecError;
    ///
    /// fn text(payload: &[u8]) -> Result<&str, CodecError> {
    ///     std::str::from_utf8(payload).map_err(CodecError::new)
    /// }
    /// assert!(text(&[0xff]).is_err());
    /// ```
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

/// The error of the encoder and the decoder, with a flag: true if the format caused it, false if
/// the value did. It has the size of a pointer, so that results are passed in registers.
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

    /// Returns true if the format does not support the type of the value.
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

/// Maximum number of elements of a message that take no bytes, such as those of a `Vec<()>`.
/// Nothing else limits the work for them.
pub(crate) const EMPTY: usize = 1024;

/// The reason why a type is not supported by this format.
pub(crate) const NO_KINDS: &str = "postcard does not carry this type, as with serde's `tag`, `untagged` and \
                        `flatten`; take another codec, or another type";

pub(crate) const LEFT_OUT: &str = "postcard carries all fields of a value or none, hence no type with serde's \
                        `skip_serializing_if`; take another codec, or another type";

pub(crate) const UNSIZED: &str = "postcard does not carry what does not say first how long it is, as with \
                       serde's `flatten`; take another codec, or another type";
