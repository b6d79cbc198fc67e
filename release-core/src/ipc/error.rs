//! What can go wrong with a message, one small enum for each thing that a caller does.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{CodecError, FrameTooLong};

/// Why a connection has ended. It never recovers; every later use gives the same answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The peer closed the connection between two frames.
    Closed,
    /// The peer closed the connection in the middle of a frame, which is not delivered.
    Truncated,
    /// The peer announced a frame over the limit; its length and the limit are in the error.
    FrameTooLong(FrameTooLong),
    /// The peer sent something that is not part of the protocol.
    Violation(&'static str),
    /// The peer began a frame and did not finish it in time.
    FrameTimeout,
    /// The peer did not read for so long that what waits for it passed its deadline.
    NotReading,
    /// This side ended the connection.
    Here,
    /// The operating system refused.
    Io(Arc<io::Error>),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::Truncated => {
                f.write_str("the peer closed the connection in the middle of a frame")
            }
            Self::FrameTooLong(error) => write!(f, "the peer announced {error}"),
            Self::Violation(what) => write!(f, "the peer broke the protocol: {what}"),
            Self::FrameTimeout => {
                f.write_str("the peer began a frame and did not finish it in time")
            }
            Self::NotReading => f.write_str("the peer does not read what is sent to it"),
            Self::Here => f.write_str("the connection was ended on this side"),
            Self::Io(_) => f.write_str("the connection failed"),
        }
    }
}

impl std::error::Error for Ended {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<FrameTooLong> for Ended {
    fn from(error: FrameTooLong) -> Self {
        Self::FrameTooLong(error)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The answer did not come in time. The connection goes on; a late answer is dropped.
    TimedOut,
    /// The peer's handler refused, failed or panicked: its words.
    Refused(String),
    /// The request's encoding is longer than the connection allows; it was not sent.
    TooLong(FrameTooLong),
    /// The request could not be encoded, or the answer not decoded.
    Codec(CodecError),
    /// Too much waits for the peer already. A call waits for room instead; this comes from a
    /// [`SendError`].
    Full,
    /// The connection has ended.
    Ended(Ended),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no answer came in time"),
            Self::Refused(why) => write!(f, "the peer refused: {why}"),
            Self::TooLong(_) => f.write_str("the message is too long to be sent"),
            Self::Codec(_) => {
                f.write_str("the message has no meaning in the other process's types")
            }
            Self::Full => SendError::Full.fmt(f),
            Self::Ended(_) => f.write_str("the connection has ended"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLong(error) => Some(error),
            Self::Codec(error) => Some(error),
            Self::Ended(error) => Some(error),
            Self::TimedOut | Self::Refused(_) | Self::Full => None,
        }
    }
}

impl From<Ended> for CallError {
    fn from(error: Ended) -> Self {
        Self::Ended(error)
    }
}

impl From<CodecError> for CallError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl From<FrameTooLong> for CallError {
    fn from(error: FrameTooLong) -> Self {
        Self::TooLong(error)
    }
}

/// Lets a function that makes calls send too: `me.ready()?`.
impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Self::Full,
            SendError::TooLong(error) => Self::TooLong(error),
            SendError::Codec(error) => Self::Codec(error),
            SendError::Ended(error) => Self::Ended(error),
        }
    }
}

/// Why a message could not be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// So much waits for the peer already that this message was not queued: the peer is stuck.
    Full,
    /// The message's encoding is longer than the connection allows.
    TooLong(FrameTooLong),
    /// The message could not be encoded.
    Codec(CodecError),
    /// The connection has ended.
    Ended(Ended),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the peer does not read, and enough waits for it already"),
            Self::TooLong(_) => f.write_str("the message is too long to be sent"),
            Self::Codec(_) => f.write_str("the message cannot be encoded"),
            Self::Ended(_) => f.write_str("the connection has ended"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLong(error) => Some(error),
            Self::Codec(error) => Some(error),
            Self::Ended(error) => Some(error),
            Self::Full => None,
        }
    }
}

impl From<Ended> for SendError {
    fn from(error: Ended) -> Self {
        Self::Ended(error)
    }
}

impl From<CodecError> for SendError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl From<FrameTooLong> for SendError {
    fn from(error: FrameTooLong) -> Self {
        Self::TooLong(error)
    }
}

/// Why no message could be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The message came whole and was taken from the stream, but is not one of the expected type.
    Codec(CodecError),
    /// The connection has ended otherwise than by a clean close.
    Ended(Ended),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(_) => f.write_str("a message of another type arrived"),
            Self::Ended(_) => f.write_str("the connection has ended"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Codec(error) => Some(error),
            Self::Ended(error) => Some(error),
        }
    }
}

impl From<Ended> for ReadError {
    fn from(error: Ended) -> Self {
        Self::Ended(error)
    }
}

impl From<CodecError> for ReadError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

/// A handler's "no": the words go to the one who asked.
///
/// Plain mode knows answers only: there, the connection is closed, and the words are lost.
///
/// Every error turns into it by `?`, also `anyhow::Error` and `Box<dyn Error + Send + Sync>`, and so
/// does a text.
///
/// ```
/// use release_core::ipc::Refused;
///
/// fn parse(text: &str) -> Result<u32, Refused> {
///     let number: u32 = text.parse()?;
///     if number == 0 { Err(Refused::new("zero is taken")) } else { Ok(number) }
/// }
///
/// fn parse_either(text: &str) -> Result<u32, Refused> {
///     let number: Result<u32, Box<dyn std::error::Error + Send + Sync>> = text.parse().map_err(Into::into);
///     if number? == 0 { Err("zero is taken")? }
///     parse(text)
/// }
/// assert!(parse("x").is_err());
/// assert!(parse("0").is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Refused(String);

impl Refused {
    /// A refusal in the handler's own words.
    #[cold]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    pub(crate) fn into_words(self) -> String {
        self.0
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Refused {
    #[cold]
    fn from(error: E) -> Self {
        Self(crate::error::chain(error.into().as_ref()))
    }
}
