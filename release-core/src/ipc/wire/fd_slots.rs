//! The descriptors of the message that this thread currently encodes or decodes, by index.
//!
//! A serde type has access only to its serializer. Therefore the descriptors, which are sent beside
//! the bytes, are in a thread-local. Encoding and decoding never wait, so one thread is enough.

use serde::de::{Error as _, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::RefCell;
use std::fmt;
use std::io::pipe;
use std::mem;

use super::descriptor::Descriptor;
use super::format::CodecError;

thread_local! {
    static MESSAGE: RefCell<CurrentMessage> = const { RefCell::new(CurrentMessage::None) };
}

/// The message of this thread.
enum CurrentMessage {
    None,
    /// Being encoded: its descriptors, and their maximum number.
    Out(Vec<Descriptor>, usize),
    /// Being decoded: the remaining descriptors, and the error of the last attempt to take one.
    In(Vec<Option<Descriptor>>, Option<String>),
    /// The type is being traced: each index has a descriptor, the reading end of a pipe.
    Traced,
    /// A descriptor could not be encoded. The reason is stored here, as above, because some formats
    /// drop the text of errors.
    Failed(String),
}

/// Restores the outer message, also when a codec panics.
struct Restore(CurrentMessage);

impl Drop for Restore {
    fn drop(&mut self) {
        replace(mem::replace(&mut self.0, CurrentMessage::None));
    }
}

fn replace(message: CurrentMessage) -> CurrentMessage {
    MESSAGE.with_borrow_mut(|current| mem::replace(current, message))
}

/// Runs an encoder. Returns duplicates of the descriptors in the message.
pub(super) fn encoding(
    room: usize,
    encode: impl FnOnce() -> Result<(), CodecError>,
) -> Result<Vec<Descriptor>, CodecError> {
    let outer = Restore(replace(CurrentMessage::Out(Vec::new(), room)));
    let encoded = encode();
    let message = replace(CurrentMessage::None);
    drop(outer);
    match (message, encoded) {
        (CurrentMessage::Failed(why), _) => Err(CodecError::new(why)),
        (CurrentMessage::Out(descriptors, _), Ok(())) => Ok(descriptors),
        (_, encoded) => encoded.map(|()| Vec::new()),
    }
}

/// Runs a decoder that must take all of these descriptors.
pub(super) fn decoding<T>(
    descriptors: Vec<impl Into<Descriptor>>,
    decode: impl FnOnce() -> Result<T, CodecError>,
) -> Result<T, CodecError> {
    match decoding_some(descriptors, decode)? {
        (_, left) if left > 0 => Err(CodecError::new(format_args!(
            "{left} descriptors came with the message that belong to none of its parts"
        ))),
        (value, _) => Ok(value),
    }
}

/// Runs a decoder that may take these descriptors. Closes the others, and returns their number.
pub(super) fn decoding_some<T>(
    descriptors: Vec<impl Into<Descriptor>>,
    decode: impl FnOnce() -> Result<T, CodecError>,
) -> Result<(T, usize), CodecError> {
    let places = descriptors.into_iter().map(|one| Some(one.into())).collect();
    let outer = Restore(replace(CurrentMessage::In(places, None)));
    let decoded = decode();
    let message = replace(CurrentMessage::None);
    drop(outer);
    let CurrentMessage::In(places, why) = message else { return Ok((decoded?, 0)) };
    let left = places.into_iter().flatten().count();
    decoded.map(|value| (value, left)).map_err(|error| why.map_or(error, CodecError::new))
}

/// Runs a decoder on samples instead of a message.
pub(super) fn tracing<T>(decode: impl FnOnce() -> T) -> T {
    let _outer = Restore(replace(CurrentMessage::Traced));
    decode()
}

/// Adds a descriptor to the message that is being encoded. Returns its index.
fn put(descriptor: &Descriptor) -> Result<u32, String> {
    MESSAGE.with_borrow_mut(|message| {
        let put = message.put(descriptor);
        put.inspect_err(|why| {
            if matches!(message, CurrentMessage::Out(..)) {
                *message = CurrentMessage::Failed(why.clone());
            }
        })
    })
}

/// Takes the descriptor of an index out of the message that is being decoded.
fn take(place: u32) -> Result<Descriptor, String> {
    MESSAGE.with_borrow_mut(|message| message.take(place))
}

impl CurrentMessage {
    fn put(&mut self, descriptor: &Descriptor) -> Result<u32, String> {
        let (descriptors, room) = match self {
            Self::Out(descriptors, room) => (descriptors, *room),
            Self::Failed(why) => return Err(why.clone()),
            Self::None | Self::Traced | Self::In(..) => return Err(NO_MESSAGE.to_owned()),
        };
        if room == 0 {
            return Err(NOT_ALLOWED.to_owned());
        }
        if descriptors.len() == room {
            return Err(format!("a message here has at most {room} descriptors"));
        }
        let place = u32::try_from(descriptors.len()).map_err(|error| error.to_string())?;
        let duplicate = descriptor
            .duplicate()
            .map_err(|error| format!("cannot duplicate a descriptor: {error}"))?;
        descriptors.push(duplicate);
        Ok(place)
    }

    fn take(&mut self, place: u32) -> Result<Descriptor, String> {
        let (places, why) = match self {
            Self::In(places, why) => (places, why),
            Self::Traced => {
                return pipe()
                    .map(|(end, _)| Descriptor::new(end))
                    .map_err(|error| error.to_string());
            }
            _ => return Err(NO_MESSAGE.to_owned()),
        };
        let index = usize::try_from(place).map_err(|error| error.to_string())?;
        let taken = places.get_mut(index).and_then(Option::take);
        taken.ok_or_else(|| {
            let words = "is not with the message, or it is taken already";
            why.insert(format!("descriptor {place} {words}")).clone()
        })
    }
}

const NO_MESSAGE: &str = "a descriptor means nothing outside of a message";

const NOT_ALLOWED: &str =
    "this connection carries no descriptors; both sides have to allow them with `descriptors`";

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = put(self).map_err(S::Error::custom)?;
        serializer.serialize_newtype_struct(NAME, &place)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NAME, SlotVisitor)
    }
}

/// Distinguishes a descriptor from other numbers in a shape. Formats do not write this name.
const NAME: &str = "Descriptor";

struct SlotVisitor;

impl<'de> Visitor<'de> for SlotVisitor {
    type Value = Descriptor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place of a descriptor")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Descriptor, D::Error> {
        let place = u32::deserialize(inner)?;
        take(place).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::Linger;

    use super::super::codec::{Codec, Postcard};
    use super::*;
    use crate::sys::untrusted::Untrusted;

    type Both = (Descriptor, Vec<Option<Descriptor>>);

    fn ends() -> (PipeReader, PipeWriter) {
        pipe().unwrap()
    }

    fn encode(value: &Both, room: usize) -> Result<(Vec<u8>, Vec<Descriptor>), CodecError> {
        let mut payload = Vec::new();
        let descriptors = encoding(room, || Postcard.encode(value, &mut payload))?;
        Ok((payload, descriptors))
    }

    fn message(count: usize) -> (PipeReader, Both) {
        let (reader, writer) = ends();
        let many = (1..count).map(|_| Some(Descriptor::new(writer.try_clone().unwrap())));
        let many = many.chain([None]).collect();
        (reader, (Descriptor::new(writer), many))
    }

    fn is_closed(mut reader: PipeReader) {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn each_place_holds_what_was_put_there() {
        let (reader, sent) = message(3);
        let (payload, descriptors) = encode(&sent, 3).unwrap();
        drop(sent);
        assert_eq!((payload.as_slice(), descriptors.len()), (&[0, 3, 1, 1, 1, 2, 0][..], 3));
        let received: Both = decoding(descriptors, || Postcard.decode(&payload)).unwrap();
        assert_eq!(received.1.iter().flatten().count(), 2);
        drop(received);
        is_closed(reader);
    }

    #[test]
    fn too_many_and_any_where_none_are_allowed_are_errors_in_words() {
        let (reader, sent) = message(3);
        let error = encode(&sent, 2).unwrap_err().to_string();
        assert!(error.contains("at most 2 descriptors"), "{error}");
        let error = encode(&sent, 0).unwrap_err().to_string();
        assert!(error.contains("both sides have to allow them"), "{error}");
        assert!(Postcard.encode(&sent, &mut Vec::new()).is_err(), "outside of a message");
        drop(sent);
        is_closed(reader);
    }

    #[test]
    fn what_no_part_of_the_message_takes_is_closed_and_an_error() {
        let (reader, writer) = ends();
        let descriptors = vec![OwnedFd::from(writer.try_clone().unwrap()), writer.into()];
        let decoded: Result<Descriptor, _> = decoding(descriptors, || Postcard.decode(&[1]));
        let error = decoded.unwrap_err().to_string();
        assert!(error.starts_with("1 descriptors came"), "{error}");
        is_closed(reader);
    }

    #[test]
    fn a_place_is_taken_once_and_must_be_there() {
        for payload in [[0, 1, 1, 0], [7, 1, 1, 0]] {
            let (reader, writer) = ends();
            let decoded: Result<Both, _> =
                decoding(vec![OwnedFd::from(writer)], || Postcard.decode(&payload));
            let error = decoded.unwrap_err().to_string();
            assert!(error.contains("not with the message"), "{error}");
            is_closed(reader);
        }
    }

    #[test]
    fn the_duplicate_of_a_received_one_blocks_nobody_either() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        sent.set_nonblocking(true).unwrap();
        while sent.write_all(&[7; 65536]).is_ok() {}
        let received = OwnedFd::from(sent.try_clone().unwrap());
        let message: Both = (Untrusted::from(received).into(), Vec::new());
        let (_, relayed) = encode(&message, 1).unwrap();
        drop(message);
        // Its sender makes it linger, and goes.
        setsockopt(&sent, Linger, &libc::linger { l_onoff: 1, l_linger: 20 }).unwrap();
        drop(sent);
        let start = Instant::now();
        drop(relayed);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn a_codec_that_panics_leaves_nothing() {
        let (reader, writer) = ends();
        let panics = || decoding::<()>(vec![OwnedFd::from(writer)], || panic!("in a decoder"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        is_closed(reader);
        assert!(put(&Descriptor::new(ends().0)).unwrap_err().contains("outside"));
    }
}
