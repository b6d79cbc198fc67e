//! The header of call mode, inside the payload: what a frame is, and which request it belongs to.

use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};

use super::pulse::Beat;

/// The number of a request on its connection, given by the side that asks.
pub(crate) type Number = u32;

/// What a frame of call mode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The master's first frame: who the worker is (see `ipc::hello`).
    Hello,
    /// The worker serves from now on.
    Ready,
    /// A question; `patience` is how long the asker waits for the answer, if not for ever.
    Request { number: Number, patience: Option<Duration> },
    /// The answer to the request of that number.
    Answer { number: Number },
    /// The request of that number was refused; the body is the reason in UTF-8.
    Refusal { number: Number },
    /// A message that wants no answer.
    Notice,
    /// The asker no longer waits for the answer to that request.
    Cancel { number: Number },
    /// How does the work go?
    Pulse,
    /// The answer to that.
    Beat(Beat),
    /// Two descriptors, for the worker's standard output and standard error.
    Outputs,
}

const HELLO: u8 = 1;
const READY: u8 = 2;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
const REFUSAL: u8 = 5;
const NOTICE: u8 = 6;
const CANCEL: u8 = 7;
const PULSE: u8 = 8;
const BEAT: u8 = 9;
const OUTPUTS: u8 = 10;

/// Added to the kind of a frame with descriptors; their number is in the byte behind it.
const WITH_DESCRIPTORS: u8 = 0x80;

/// Says in the header at `start` how many descriptors travel with the frame: at least one, and not
/// more than the kernel takes, which a byte can hold.
pub(crate) fn add_descriptors(payload: &mut Vec<u8>, start: usize, count: usize) {
    payload[start] |= WITH_DESCRIPTORS;
    payload.insert(start + 1, u8::try_from(count).unwrap_or(u8::MAX));
}

impl Header {
    /// Appends the header: a byte for the kind; a number where there is one; for a request the
    /// patience in milliseconds, 0 for unlimited; for a beat the units finished, in 8 bytes, and the
    /// age of the oldest other one in milliseconds, 0 for none. Other integers are 4 bytes; all are
    /// big-endian.
    pub(crate) fn write(self, payload: &mut Vec<u8>) {
        let (kind, number) = match self {
            Self::Hello => (HELLO, None),
            Self::Ready => (READY, None),
            Self::Request { number, .. } => (REQUEST, Some(number)),
            Self::Answer { number } => (ANSWER, Some(number)),
            Self::Refusal { number } => (REFUSAL, Some(number)),
            Self::Notice => (NOTICE, None),
            Self::Cancel { number } => (CANCEL, Some(number)),
            Self::Pulse => (PULSE, None),
            Self::Beat(_) => (BEAT, None),
            Self::Outputs => (OUTPUTS, None),
        };
        payload.push(kind);
        if let Some(number) = number {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        match self {
            Self::Request { patience, .. } => {
                payload.extend_from_slice(&milliseconds(patience).to_be_bytes());
            }
            Self::Beat(Beat { finished, oldest }) => {
                payload.extend_from_slice(&finished.to_be_bytes());
                payload.extend_from_slice(&milliseconds(oldest).to_be_bytes());
            }
            _ => {}
        }
    }

    /// The header, how many descriptors the frame says it has, and the body behind; `None` when
    /// there is no such kind, it is cut short, or it has descriptors that its kind never has.
    #[inline]
    pub(crate) fn parse(payload: &[u8]) -> Option<(Self, u8, &[u8])> {
        let (&kind, rest) = payload.split_first()?;
        if kind & WITH_DESCRIPTORS == 0 {
            let (header, body) = Self::parse_kind(kind, rest)?;
            return Some((header, 0, body));
        }
        let (&count, rest) = rest.split_first()?;
        let (header, body) = Self::parse_kind(kind & !WITH_DESCRIPTORS, rest)?;
        (header.may_have(count) && count > 0).then_some((header, count, body))
    }

    /// Whether a frame of this kind may have so many descriptors.
    fn may_have(self, count: u8) -> bool {
        match self {
            Self::Request { .. } | Self::Answer { .. } | Self::Notice => true,
            Self::Outputs => count == 2,
            _ => false,
        }
    }

    fn parse_kind(kind: u8, rest: &[u8]) -> Option<(Self, &[u8])> {
        let numbered = || Some((BigEndian::read_u32(rest.get(..4)?), &rest[4..]));
        Some(match kind {
            HELLO => (Self::Hello, rest),
            READY => (Self::Ready, rest),
            NOTICE => (Self::Notice, rest),
            OUTPUTS => (Self::Outputs, rest),
            REQUEST => {
                let (number, rest) = numbered()?;
                let milliseconds = BigEndian::read_u32(rest.get(..4)?);
                let patience =
                    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
                (Self::Request { number, patience }, &rest[4..])
            }
            ANSWER => numbered().map(|(number, body)| (Self::Answer { number }, body))?,
            REFUSAL => numbered().map(|(number, body)| (Self::Refusal { number }, body))?,
            CANCEL => numbered().map(|(number, body)| (Self::Cancel { number }, body))?,
            PULSE => (Self::Pulse, rest),
            BEAT => {
                let finished = BigEndian::read_u64(rest.get(..8)?);
                let milliseconds = BigEndian::read_u32(rest.get(8..12)?);
                let oldest = (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
                (Self::Beat(Beat { finished, oldest }), &rest[12..])
            }
            _ => return None,
        })
    }
}

/// Never 0 for a time that there is, and at most 49 days.
fn milliseconds(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Header> {
        prop_oneof![
            Just(Header::Hello),
            Just(Header::Ready),
            Just(Header::Notice),
            Just(Header::Outputs),
            (any::<u32>(), prop::option::of(1_u64..1_000_000)).prop_map(|(number, patience)| {
                Header::Request { number, patience: patience.map(Duration::from_millis) }
            }),
            any::<u32>().prop_map(|number| Header::Answer { number }),
            any::<u32>().prop_map(|number| Header::Refusal { number }),
            any::<u32>().prop_map(|number| Header::Cancel { number }),
            Just(Header::Pulse),
            (any::<u64>(), prop::option::of(1_u64..1_000_000)).prop_map(|(finished, oldest)| {
                Header::Beat(Beat { finished, oldest: oldest.map(Duration::from_millis) })
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in headers(), body: Vec<u8>) {
            let mut payload = Vec::new();
            header.write(&mut payload);
            payload.extend_from_slice(&body);
            prop_assert_eq!(Header::parse(&payload), Some((header, 0, &body[..])));
        }

        #[test]
        fn a_count_of_descriptors_is_read_where_there_may_be_any(
            header in headers(), count: u8, body: Vec<u8>,
        ) {
            let mut payload = b"before".to_vec();
            header.write(&mut payload);
            payload.extend_from_slice(&body);
            add_descriptors(&mut payload, 6, count.into());
            let may_have = match header {
                Header::Request { .. } | Header::Answer { .. } | Header::Notice => true,
                Header::Outputs => count == 2,
                _ => false,
            };
            let expected = (may_have && count > 0).then_some((header, count, &body[..]));
            prop_assert_eq!(Header::parse(&payload[6..]), expected);
        }

        #[test]
        fn any_bytes_give_a_header_or_none(payload: Vec<u8>) {
            let _ = Header::parse(&payload);
        }
    }

    #[test]
    fn a_sub_millisecond_patience_is_not_unlimited() {
        assert_eq!(milliseconds(Some(Duration::from_micros(3))), 1);
        assert_eq!(milliseconds(None), 0);
    }
}
