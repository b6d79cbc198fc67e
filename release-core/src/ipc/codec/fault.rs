//! The error of an encoder or a decoder, as serde wants it.

use std::fmt;

use super::CodecError;

/// One word, so that a result of it is passed in registers: the error, and whether it is the format's
/// and not the value's own.
#[derive(Debug)]
pub(crate) struct Fault(Box<(CodecError, bool)>);

impl Fault {
    #[cold]
    pub(crate) fn new(reason: impl fmt::Display) -> Self {
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self(Box::new((CodecError::new(reason), false)))
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        serde::ser::Error::custom(reason)
    }
}

impl From<postcard::Error> for Fault {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        Self::new(error)
    }
}
