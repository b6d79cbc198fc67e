//! Entry points for fuzzers: every function accepts arbitrary bytes, and panics only for a defect.
//!
//! Not part of the API. Called by the targets in `fuzz/` and the test `fuzz`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ipc::hello::{Agreed, Hello, PROTOCOL};
use crate::ipc::ring::{RingReader, RingWriter, words_for};
use crate::ipc::shape::Rule;
use crate::ipc::{
    Codec, FrameTooLong, Header, Inbox, Outbox, Postcard, Shape, Text, add_descriptors,
};

/// The frame limit of the connections here: small, so that fuzzers reach it.
const LIMIT: u32 = 4096;

/// Splits bytes into frames regardless of how they arrive. Each piece's length is in the byte
/// before it.
///
/// # Panics
///
/// Panics if a frame depends on the splits, or if one over the limit is accepted.
pub fn frames(data: &[u8]) {
    let (mut pieces, mut whole) = (Inbox::new(LIMIT), Inbox::new(LIMIT));
    let (mut cut, mut stream) = (Vec::new(), Vec::new());
    let mut rest = data;
    let mut ended = Ok(());
    while let Some((&length, tail)) = rest.split_first() {
        let (piece, tail) = tail.split_at(tail.len().min(length.into()));
        stream.extend_from_slice(piece);
        feed(&mut pieces, piece);
        ended = ended.and_then(|()| take_all(&mut pieces, &mut cut));
        rest = tail;
    }
    feed(&mut whole, &stream);
    let mut uncut = Vec::new();
    assert_eq!(ended, take_all(&mut whole, &mut uncut), "the end depends on the pieces");
    assert_eq!(cut, uncut, "the frames depend on the pieces");
    resend(&cut, &stream);
}

/// Encodes received frames again, which must give the same bytes.
fn resend(payloads: &[Vec<u8>], stream: &[u8]) {
    let mut outbox = Outbox::new(LIMIT);
    for payload in payloads {
        let pushed = outbox.push::<_, FrameTooLong>(|buffer| {
            buffer.extend_from_slice(payload);
            Ok(())
        });
        assert_eq!(pushed, Ok(()));
    }
    assert!(stream.starts_with(outbox.unsent()), "not the bytes that came");
}

/// Treats every read as one with descriptors, as a hostile peer may send them.
fn feed(inbox: &mut Inbox, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let space = inbox.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        let before = inbox.unread().len();
        if let Some(frames) = inbox.received_with_descriptors(count) {
            let begins = skip(inbox.unread(), frames);
            assert!(begins >= before, "descriptors of a frame that had begun before");
        }
        bytes = &bytes[count..];
    }
}

/// Returns the offset of a frame that is preceded by this many other complete frames.
fn skip(bytes: &[u8], frames: usize) -> usize {
    (0..frames).fold(0, |begins, _| {
        let (header, rest) = bytes[begins..].split_first_chunk().expect("a header");
        let length = usize::try_from(u32::from_be_bytes(*header)).expect("a length");
        assert!(rest.len() > length, "a frame in front is not whole, or has nothing behind it");
        begins + header.len() + length
    })
}

fn take_all(inbox: &mut Inbox, payloads: &mut Vec<Vec<u8>>) -> Result<(), FrameTooLong> {
    while let Some(frame) = inbox.frame()? {
        let payload = inbox.payload(frame.clone());
        assert!(payload.len() <= 4096, "a frame over the limit");
        header(payload);
        payloads.push(payload.to_vec());
        inbox.consume(&frame);
    }
    Ok(())
}

/// Size of the ring here: small, so that fuzzers get round it.
const RING: u32 = 64;

/// Writes to and reads from a ring, while another process changes its memory at will: each byte is one
/// action, and those behind it are what it needs.
///
/// # Panics
///
/// Panics if bytes get lost although the memory was left alone, or if a number is believed that cannot
/// be.
pub fn ring(data: &[u8]) {
    let memory: Arc<[AtomicU64]> = (0..words_for(RING)).map(|_| AtomicU64::new(0)).collect();
    let mut writer = RingWriter::new(Arc::clone(&memory));
    let mut reader = RingReader::new(Arc::clone(&memory));
    let (mut written, mut read) = (0_u64, 0_u64);
    let (mut is_intact, mut rest) = (true, data);
    while let Some((action, tail)) = rest.split_first() {
        rest = tail;
        let count = usize::from(action / 4);
        match action % 4 {
            0 => {
                let Ok(room) = writer.room() else {
                    return assert!(!is_intact, "a good number");
                };
                assert!(room <= 64, "more room than the ring has");
                let bytes: Vec<u8> =
                    (written..).map(|at| at.to_le_bytes()[0]).take(count.min(room)).collect();
                writer.write(&bytes);
                written += bytes.len() as u64;
                let _ = writer.publish();
            }
            1 => {
                let mut space = [0; 64];
                let Ok(count) = reader.read(&mut space[..count]) else {
                    return assert!(!is_intact, "a good number");
                };
                let expected = (read..).map(|at| at.to_le_bytes()[0]);
                let is_right = space[..count].iter().copied().eq(expected.take(count));
                assert!(is_right || !is_intact, "other bytes than were written");
                read += count as u64;
                assert!(read <= written || !is_intact, "bytes that were never written");
            }
            2 => {
                let waits = written > read;
                let may_sleep = reader.fall_asleep();
                assert!(!is_intact || may_sleep == Ok(!waits), "sleep although bytes wait");
            }
            _ => {
                let Some((value, tail)) = rest.split_first_chunk() else { return };
                rest = tail;
                memory[count % memory.len()].store(u64::from_le_bytes(*value), Ordering::Relaxed);
                is_intact = false;
            }
        }
    }
}

/// Reads the header of call mode. Writing it again must give the same bytes.
///
/// # Panics
///
/// Panics if the bytes differ.
pub fn header(payload: &[u8]) {
    let Some((header, count, body)) = Header::parse(payload) else { return };
    let mut again = Vec::new();
    header.write(&mut again);
    again.extend_from_slice(body);
    if count > 0 {
        add_descriptors(&mut again, 0, count.into());
    }
    assert_eq!(again, payload, "{header:?}");
}

/// A type with every element that a message may contain.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum AnyMessage {
    Unit,
    Text(String),
    Bytes(Vec<u8>),
    Numbers { small: u8, signed: i64, large: u128, float: f32 },
    Nested(Vec<Option<(u16, Vec<String>)>>),
    Map(BTreeMap<String, Vec<u32>>),
    Character(char, bool),
}

/// Decodes a payload as messages. A decoded message must survive another round trip.
///
/// # Panics
///
/// Panics if a message does not survive.
pub fn codecs(payload: &[u8]) {
    // Compared by their bytes: a float may be NaN.
    round::<Postcard, AnyMessage>(&Postcard, payload);
    round::<Postcard, (u32, String, Vec<u64>)>(&Postcard, payload);
    round::<Postcard, Empty>(&Postcard, payload);
    like_postcard::<AnyMessage>(payload);
    like_postcard::<(i8, i16, i32, i64, i128, u16, f64)>(payload);
    round::<Text, i64>(&Text, payload);
    round::<Text, String>(&Text, payload);
}

fn round<C: Codec<T>, T: Debug>(codec: &C, payload: &[u8]) {
    let Ok(value) = codec.decode(payload) else { return };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let encoded = codec.encode(&value, &mut first);
    assert!(encoded.is_ok(), "{value:?} does not encode");
    let again = codec.decode(&first);
    assert!(again.is_ok(), "{value:?} does not decode again");
    if let Ok(again) = again {
        assert!(codec.encode(&again, &mut second).is_ok());
        assert_eq!(first, second, "{value:?} became {again:?}");
    }
}

/// Elements of zero bytes: only the decoder limits their number.
type Empty = (Vec<Vec<()>>, BTreeMap<(), ()>, Option<Vec<[(); 3]>>, Vec<(Vec<()>, u8)>);

/// A payload decodes here exactly if it does in the format's crate, with the same value.
fn like_postcard<T: Debug + Serialize + DeserializeOwned>(payload: &[u8]) {
    let theirs = postcard::take_from_bytes::<T>(payload).ok().filter(|(_, rest)| rest.is_empty());
    let ours: Option<T> = Postcard.decode(payload).ok();
    let bytes = |value: Option<T>| {
        value.map(|value| {
            let mut bytes = Vec::new();
            assert!(Postcard.encode(&value, &mut bytes).is_ok());
            assert_eq!(postcard::to_stdvec(&value).as_deref(), Ok(&*bytes), "{value:?}");
            bytes
        })
    };
    assert_eq!(bytes(ours), bytes(theirs.map(|(value, _)| value)), "of {payload:?}");
}

/// Decodes the shape of another version's messages, and compares it.
///
/// # Panics
///
/// Panics if a shape differs from itself.
pub fn shapes(payload: &[u8]) {
    round::<Postcard, Shape>(&Postcard, payload);
    let Ok(shape) = Codec::<Shape>::decode(&Postcard, payload) else { return };
    let here = Shape::of::<AnyMessage>().unwrap_or_else(|_| Shape::unknown());
    for rule in [Rule::Same, Rule::MoreAtTheEnd] {
        assert_eq!(shape.difference(&shape, rule), None, "{shape}");
        let _ = (here.difference(&shape, rule), shape.difference(&here, rule));
    }
}

/// Decodes a worker's greeting.
///
/// # Panics
///
/// Panics if a decoded greeting does not survive another round trip.
pub fn hello(payload: &[u8]) {
    round::<Postcard, Hello>(&Postcard, payload);
}

/// Reads bytes as a configuration file.
///
/// # Panics
///
/// Panics if an error has no position in the file.
pub fn config(text: &[u8]) {
    crate::config::fuzz::parse(text);
}

/// Dumps a configuration file, and reads the dump again.
///
/// # Panics
///
/// Panics if the values differ.
pub fn config_dump(text: &[u8]) {
    crate::config::fuzz::dump(text);
}

/// Returns a payload of each kind, as seeds for fuzzers.
///
/// # Panics
///
/// Panics if a payload cannot be encoded.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"\x09\0\0\0\x05hello\x04\0\0\0\0\x04\xff\xff\xff\xff".to_vec()];
    let numbers = AnyMessage::Numbers { small: 7, signed: -1, large: u128::MAX, float: 1.5 };
    let nested = AnyMessage::Nested(vec![None, Some((300, vec!["x".to_owned()]))]);
    let text = AnyMessage::Text("caf\u{e9}".to_owned());
    for message in
        [AnyMessage::Unit, numbers, nested, text, AnyMessage::Character('\u{1f600}', true)]
    {
        let mut payload = Vec::new();
        assert!(Postcard.encode(&message, &mut payload).is_ok());
        seeds.push(payload);
    }
    let hello = Hello {
        protocol: PROTOCOL,
        worker: 3,
        generation: 2,
        agreed: Agreed::of(crate::ipc::limits::Limits::IPC),
        group: "http".to_owned(),
        listeners: vec!["http".to_owned()],
        types: None,
        context: vec![1, 2, 3],
    };
    let mut payload = Vec::new();
    assert!(Postcard.encode(&hello, &mut payload).is_ok());
    seeds.push(payload);
    let mut payload = Vec::new();
    let shape = Shape::of::<AnyMessage>().and_then(|shape| Postcard.encode(&shape, &mut payload));
    assert!(shape.is_ok());
    seeds.push(payload);
    seeds.extend(crate::config::fuzz::SEEDS.map(|text| text.as_bytes().to_vec()));
    seeds
}
