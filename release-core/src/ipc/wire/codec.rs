//! How a message becomes a payload: the codec trait, serde with postcard, and text.

use std::fmt::{self, Display, Write as _};
use std::str::FromStr;

use serde::{Serialize, de::DeserializeOwned};

use super::format::{CodecError, Fault, decode, encode};
use super::shape::Shape;

/// A request type, paired with the type of its answer.
///
/// If requests have answers of different types, [`requests!`](crate::requests) declares this type, and
/// the type of each answer.
///
/// # Examples
///
/// ```
/// use release_core::ipc::Request;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Ask {
///     NextNumber,
///     Reserve { count: u32 },
/// }
///
/// impl Request for Ask {
///     type Response = u64;
/// }
/// ```
#[doc(alias = "Ops")]
pub trait Request: Send + 'static {
    /// The type of the answer.
    type Response: Send + 'static;

    /// Whether a request is answered with the variant of the same number only, so that no process
    /// receives a variant of an answer whose request it does not know: [`requests!`](crate::requests)
    /// sets it. The number of these variants may then grow in an upgrade in place.
    const PAIRED: bool = false;
}

/// The request type of a direction without requests. It has no values.
///
/// # Examples
///
/// A worker that sends requests but does not answer any:
///
/// ```
/// use release_core::ipc::{Never, Refused};
///
/// async fn answer(request: Never) -> Result<(), Refused> {
///     match request {}
/// }
/// ```
#[derive(Clone, Copy, Debug, Serialize, serde::Deserialize)]
#[allow(clippy::exhaustive_enums)]
pub enum Never {}

impl Request for Never {
    type Response = ();
}

/// A text request with a text answer, as on control sockets.
impl Request for String {
    type Response = Self;
}

/// Converts values of type `T` to payloads and back.
///
/// [`Postcard`] is the codec for serde types, [`Text`] for types with `Display` and `FromStr`.
///
/// A connection encodes and decodes while it is locked. A codec, and the `Serialize` and `Deserialize`
/// implementations that it calls, must not use that connection, for example by a log that goes to the
/// master: the thread would wait for itself. They delay other tasks of the connection.
///
/// # Examples
///
/// A codec of your own is a unit struct with this trait:
///
/// ```
/// use release_core::ipc::{Codec, CodecError};
///
/// #[derive(Clone, Copy, Debug, Default)]
/// struct Upper;
///
/// impl Codec<String> for Upper {
///     fn encode(&self, value: &String, payload: &mut Vec<u8>) -> Result<(), CodecError> {
///         payload.extend_from_slice(value.to_uppercase().as_bytes());
///         Ok(())
///     }
///     fn decode(&self, payload: &[u8]) -> Result<String, CodecError> {
///         String::from_utf8(payload.to_vec()).map_err(CodecError::new)
///     }
/// }
/// ```
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// Appends the value's bytes to `payload`, whose other bytes must not change.
    ///
    /// # Errors
    ///
    /// Returns a [`CodecError`] if the value has no encoding.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{Codec, Text};
    ///
    /// let mut payload = b"answer: ".to_vec();
    /// Text.encode(&42, &mut payload)?;
    /// assert_eq!(payload, b"answer: 42");
    /// # Ok::<(), release_core::ipc::CodecError>(())
    /// ```
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decodes the value of a complete payload.
    ///
    /// The bytes come from the peer: every sequence of bytes must result in a value or an error,
    /// never in a panic. The decoder must not reserve more memory than the payload's length.
    ///
    /// # Errors
    ///
    /// Returns a [`CodecError`] if the payload is not an encoded value, or is longer than the
    /// value.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{Codec, Postcard};
    ///
    /// assert_eq!(Postcard.decode(b"\x02hi"), Ok("hi".to_owned()));
    /// assert!(Codec::<String>::decode(&Postcard, b"\x03hi").is_err());
    /// ```
    fn decode(&self, payload: &[u8]) -> Result<T, CodecError>;

    /// Returns the value that a caller receives in place of an answer that cannot be sent, if the
    /// format has such a value. It contains the reason.
    ///
    /// [`ControlSocket`](crate::ControlSocket) uses it. Without such a value, the connection ends.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{Codec, Text};
    ///
    /// let answer: Option<String> = Text.failure("no such command");
    /// assert_eq!(answer.as_deref(), Some("error: no such command"));
    /// ```
    fn failure(&self, _reason: &str) -> Option<T> {
        None
    }

    /// Returns the shape of the encoding. Master and workers compare it when they connect, and
    /// before an upgrade, with that of the other program version.
    ///
    /// By default the shape is unknown and is not compared. This is correct for formats that
    /// contain names and kinds, such as JSON. A codec that is based on serde and writes neither
    /// should return [`Shape::of`] the type. Any other codec may return [`Shape::named`], with a
    /// name that you change together with the encoding.
    ///
    /// # Errors
    ///
    /// Returns a [`CodecError`] if the codec does not support the type. A master then does not
    /// start.
    ///
    /// # Examples
    ///
    /// A codec for postcard that compares only a version:
    ///
    /// ```
    /// use release_core::ipc::{Codec, CodecError, Postcard, Shape};
    /// use serde::{Serialize, de::DeserializeOwned};
    ///
    /// #[derive(Clone, Copy, Debug, Default)]
    /// struct Versioned;
    ///
    /// impl<T: Serialize + DeserializeOwned> Codec<T> for Versioned {
    ///     fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError> {
    ///         Postcard.encode(value, payload)
    ///     }
    ///     fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
    ///         Postcard.decode(payload)
    ///     }
    ///     fn shape(&self) -> Result<Shape, CodecError> {
    ///         Ok(Shape::named("messages of version 3"))
    ///     }
    /// }
    /// # assert!(Codec::<u8>::shape(&Versioned).is_ok());
    /// ```
    fn shape(&self) -> Result<Shape, CodecError> {
        Ok(Shape::unknown())
    }
}

/// The codec for serde types in the compact postcard format, the default between master and worker.
///
/// The format contains neither names nor kinds. Therefore it does not support types that need them:
/// types with serde's `tag`, `untagged`, `flatten` or `skip_serializing_if`, and
/// `serde_json::Value`. A master with messages of such a type does not start. The sequences of a
/// message may contain at most 1024 elements that take no bytes, such as the elements of a
/// `Vec<()>`.
///
/// Use a type of the crate `serde_bytes` for long byte strings: it is copied at once. A `String` is
/// also checked for UTF-8, and serde visits each byte of a `Vec<u8>`.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{Codec, Postcard};
///
/// let mut payload = Vec::new();
/// Postcard.encode(&("seven".to_string(), 7_u8), &mut payload)?;
/// let back: (String, u8) = Postcard.decode(&payload)?;
/// assert_eq!(back, ("seven".to_string(), 7));
/// # Ok::<(), release_core::ipc::CodecError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs)]
pub struct Postcard;

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        encode(value, payload).map_err(Fault::into_error)
    }

    fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
        decode(payload)
    }

    fn shape(&self) -> Result<Shape, CodecError> {
        Shape::of::<T>()
    }
}

/// The codec for UTF-8 text, by `Display` and `FromStr`, as scripts and OCaml programs use it.
///
/// # Examples
///
/// ```
/// use release_core::ipc::{Codec, Text};
///
/// let mut payload = Vec::new();
/// Text.encode(&42, &mut payload)?;
/// assert_eq!(payload, b"42");
/// let back: i32 = Text.decode(b"42")?;
/// assert_eq!(back, 42);
/// # Ok::<(), release_core::ipc::CodecError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs)]
pub struct Text;

impl<T: Display + FromStr<Err: Display>> Codec<T> for Text {
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut text = Utf8(payload);
        write!(text, "{value}").map_err(CodecError::new)
    }

    fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
        let text = std::str::from_utf8(payload).map_err(CodecError::new)?;
        text.parse().map_err(CodecError::new)
    }

    /// Returns the text `error: ` with the reason, if `T` can be read from that.
    fn failure(&self, reason: &str) -> Option<T> {
        format!("error: {reason}").parse().ok()
    }
}

/// Writes formatted text to the end of a byte buffer, without an intermediate string.
struct Utf8<'a>(&'a mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
