//! How a message becomes a payload: the codec trait, serde with postcard, and text.

use std::fmt::{self, Display, Write as _};
use std::str::FromStr;

use serde::{Serialize, de::DeserializeOwned};

use super::format::{CodecError, Fault, decode, encode};
use super::shape::Shape;

/// A request, and the type of its answer: what the OCaml library's functor `Ops` pairs.
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
    /// What the one who is asked answers with.
    type Response: Send + 'static;
}

/// The request type of a direction in which nobody asks. It has no values.
#[derive(Clone, Copy, Debug, Serialize, serde::Deserialize)]
#[allow(clippy::exhaustive_enums)]
pub enum Never {}

impl Request for Never {
    type Response = ();
}

/// Text is asked and answered on control sockets and by scripts.
impl Request for String {
    type Response = Self;
}

/// Converts values of type `T` to payloads and back.
///
/// [`Postcard`] does it for serde types, [`Text`] for everything with `Display` and `FromStr`.
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
    /// Appends the value's bytes to `payload`; what `payload` held before stays as it is.
    ///
    /// # Errors
    ///
    /// [`CodecError`] when the value has no encoding.
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value of a complete payload.
    ///
    /// The bytes come from the peer: any bytes at all must give a value or an error, never a panic,
    /// and must not make the decoder reserve more memory than they themselves take.
    ///
    /// # Errors
    ///
    /// [`CodecError`] when the payload is not the encoding of a value, or is followed by more bytes.
    fn decode(&self, payload: &[u8]) -> Result<T, CodecError>;

    /// Returns the value that a caller gets in place of an answer that cannot be sent, with the reason
    /// in words, if the format has such a value.
    ///
    /// [`ControlSocket`](crate::ControlSocket) asks for it; without one, the connection ends.
    fn failure(&self, _reason: &str) -> Option<T> {
        None
    }

    /// Returns what the encoding consists of, so that it can be compared with that of another version
    /// of the program: master and workers do so when they meet, and before an upgrade.
    ///
    /// By default nothing is known and nothing compared, which is right for a format that has names
    /// and kinds in it, such as JSON. A codec that is made of serde and writes neither returns
    /// [`Shape::of`] the type. One that is neither may return [`Shape::named`], with a name that
    /// you change whenever you change the encoding.
    ///
    /// # Errors
    ///
    /// [`CodecError`] when the codec does not carry the type at all. A master does not start then.
    ///
    /// # Examples
    ///
    /// A codec of postcard, whose messages are never compared but by a version:
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

/// serde values in the compact postcard format: the default between master and worker.
///
/// It writes neither names nor kinds of what there is, so it has no place for types that need them:
/// those with serde's `tag`, `untagged`, `flatten` or `skip_serializing_if`, and `serde_json::Value`.
/// A master whose messages are of such a type does not start, and none is sent. A message has at most
/// 1024 elements of sequences that take no bytes, such as those of a `Vec<()>`.
///
/// Long strings of bytes go fastest in a type of the crate `serde_bytes`, as one copy: a `String` is
/// checked to be UTF-8 besides, and a `Vec<u8>` is a list that serde goes through byte by byte.
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

/// UTF-8 text, by `Display` and `FromStr`: what the OCaml programs and scripts speak.
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

/// Writes formatted text to the end of a byte buffer, without a string in between.
struct Utf8<'a>(&'a mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
