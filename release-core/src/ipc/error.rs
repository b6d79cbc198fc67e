//! Errors of messages, one small enum for each operation.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::wire::format::CodecError;
use super::wire::frame::FrameTooLong;

/// The reason why a connection has ended. It never recovers, and every later use returns the same
/// reason.
///
/// # Examples
///
/// ```
/// use release_core::ipc::Ended;
///
/// fn is_fault_of_peer(ended: &Ended) -> bool {
///     match ended {
///         Ended::Closed | Ended::Here | Ended::Io(_) => false,
///         _ => true,
///     }
/// }
/// assert!(!is_fault_of_peer(&Ended::Closed));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The peer closed the connection between two frames.
    Closed,
    /// The peer closed the connection in the middle of a frame. The frame is not delivered.
    Truncated,
    /// The peer announced a frame over the limit. The error contains its length and the limit.
    FrameTooLong(FrameTooLong),
    /// The peer violated the protocol.
    Violation(&'static str),
    /// The peer started a frame and did not finish it in time.
    FrameTimeout,
    /// The peer did not read waiting data before the deadline.
    NotReading,
    /// This side ended the connection.
    Here,
    /// A system call failed.
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

/// The error of a call.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{CallError, Peer};
///
/// async fn greet(peer: &Peer<String>) -> Result<String, CallError> {
///     match peer.call(&"hello".to_owned()).await {
///         Err(CallError::Refused(reason)) => Ok(format!("not now: {reason}")),
///         other => other,
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The answer did not arrive in time. A late answer is dropped, and the connection lives on.
    TimedOut,
    /// The peer's handler refused, failed or panicked, for this reason.
    Refused(String),
    /// The peer cannot decode the request, for this reason: its types are other ones. No handler was
    /// called.
    NotUnderstood(String),
    /// The encoded request is longer than the connection allows. It was not sent.
    TooLong(FrameTooLong),
    /// The request could not be encoded, or the answer could not be decoded.
    Codec(CodecError),
    /// Too much waits for the peer already. A call waits for room instead; this comes from a
    /// [`SendError`].
    Full,
    /// A thread of the runtime made a [blocking call](super::Peer::blocking_call), in which it would
    /// wait for itself. The request was not sent.
    WouldDeadlock,
    /// The worker that had the call of a [`Channel`](crate::Channel) has ended. It may have handled the
    /// request.
    Gone,
    /// The connection has ended.
    Ended(Ended),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no answer came in time"),
            Self::Refused(why) => write!(f, "the peer refused: {why}"),
            Self::NotUnderstood(why) => {
                write!(
                    f,
                    "the peer does not understand the request, its types are other ones: {why}"
                )
            }
            Self::TooLong(_) => f.write_str("the message is too long to be sent"),
            Self::Codec(_) => {
                f.write_str("the message has no meaning in the other process's types")
            }
            Self::Full => SendError::Full.fmt(f),
            Self::WouldDeadlock => f.write_str(
                "a blocking call on a thread of the runtime would wait for itself: await `call`, \
                 or run it in `Rt::unblock`",
            ),
            Self::Gone => {
                f.write_str("the worker that had the request has ended, and may have handled it")
            }
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
            Self::TimedOut | Self::Refused(_) | Self::NotUnderstood(_) => None,
            Self::Full | Self::WouldDeadlock | Self::Gone => None,
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

/// The error of sending a message.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{Peer, SendError};
///
/// fn report(peer: &Peer<String>, text: String) {
///     match peer.notify(&text) {
///         Ok(()) => {}
///         Err(SendError::Full) => eprintln!("{text}: lost, because the peer does not read"),
///         Err(error) => eprintln!("{text}: {error}"),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full because the peer does not read. The message was not queued.
    Full,
    /// The encoded message is longer than the connection allows.
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

/// The error of reading a message.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{ReadError, Text, plain::Server};
///
/// async fn next(server: &mut Server<String, Text>) -> Option<String> {
///     loop {
///         match server.read_request().await {
///             Ok(request) => return request,
///             Err(ReadError::Codec(error)) => eprintln!("skipped: {error}"),
///             Err(_) => return None,
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// A complete message arrived that is not of the expected type. It was removed from the stream.
    Codec(CodecError),
    /// The connection has ended, other than by a clean close.
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

/// The refusal of a request by its handler. The caller receives the reason.
///
/// Plain mode has no error answer: there, the connection is closed without the reason.
///
/// Every error is converted with `?`, also `anyhow::Error` and `Box<dyn Error + Send + Sync>`, and so
/// is text.
///
/// # Examples
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
    /// Creates a refusal with a reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Refused;
    ///
    /// let closed = |day: &str| Refused::new(format!("closed on {day}"));
    /// let answer: Result<u32, Refused> = Err(closed("Sunday"));
    /// assert!(answer.is_err());
    /// ```
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
