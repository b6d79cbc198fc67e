//! How a message becomes a payload: the codec trait, serde with postcard, and text (row R11).

use std::fmt::{self, Display, Write as _};
use std::str::FromStr;

use postcard::Deserializer;
use serde::{Serialize, de::DeserializeOwned};

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
}

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

/// serde values in the compact postcard format: the default between master and worker.
///
/// It writes neither names nor kinds of what there is, so it has no place for types that need them:
/// those with serde's `tag`, `untagged`, `flatten` or `skip_serializing_if`, and `serde_json::Value`.
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
        postcard::serialize_with_flavor(value, Append(payload)).map_err(in_words)
    }

    fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
        let mut reader = Deserializer::from_flavor(Shallow::new(payload));
        let value = T::deserialize(&mut reader).map_err(|error| match error {
            TOO_DEEP => CodecError::new("the message is nested too deeply"),
            error => in_words(error),
        })?;
        match reader.finalize().map_err(CodecError::new)? {
            [] => Ok(value),
            rest => Err(CodecError::new(format_args!("{} bytes follow the message", rest.len()))),
        }
    }
}

/// What a type is missing that was not made for this format.
fn in_words(error: postcard::Error) -> CodecError {
    use postcard::Error;
    match error {
        Error::WontImplement | Error::SerializeSeqLengthUnknown => CodecError::new(
            "postcard does not carry this type, as with serde's `tag`, `untagged` and `flatten`; \
             take another codec, or another type",
        ),
        error => CodecError::new(error),
    }
}

/// How much of the stack a message's decoder may use. A type that contains itself is decoded by
/// recursion, as deep as the peer likes; the stack of a thread ends, and the process with it.
const DECODER_STACK: usize = 256 * 1024;

/// The error of a decoder that went too deep; postcard itself has no use for it when it decodes.
const TOO_DEEP: postcard::Error = postcard::Error::NotYetImplemented;

/// Where postcard reads from: the payload, as long as the decoder has not gone too deep.
struct Shallow<'de> {
    rest: &'de [u8],
    stack: usize,
}

impl<'de> Shallow<'de> {
    fn new(payload: &'de [u8]) -> Self {
        Self { rest: payload, stack: stack_address() }
    }
}

/// Every level of a message reads at least one byte, so no level is missed.
impl<'de> postcard::de_flavors::Flavor<'de> for Shallow<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        if self.stack.abs_diff(stack_address()) > DECODER_STACK {
            return Err(TOO_DEEP);
        }
        let (byte, rest) =
            self.rest.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.rest)
    }
}

/// About where the stack ends at the moment.
fn stack_address() -> usize {
    let here = 0_u8;
    std::hint::black_box(&raw const here).addr()
}

/// Where postcard writes to: the end of a buffer that already holds other frames.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
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
