//! The header of call mode, at the start of the payload: the kind of a frame and its request.

use std::time::Duration;

/// The number of a request on its connection, chosen by the side that sends the request.
pub(crate) type RequestNumber = u32;

/// The state of the work of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeartbeatReply {
    /// Number of finished units.
    pub(crate) finished: u64,
    /// Age of the oldest unfinished unit.
    pub(crate) oldest: Option<Duration>,
}

/// Defines the kinds of frames, their writer, their reader and the strategy of the property tests
/// from one table. The compiler refuses duplicate numbers.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $number:literal = $kind:ident $({ $($field:ident: $type:ty),+ })?,
        descriptors: $descriptors:pat,)+) => {
        /// The kind of a frame in call mode, with its fields.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Header {
            $($(#[$doc])+ $kind $({ $($field: $type),+ })?,)+
        }

        impl Header {
            /// Appends the header: one byte for the kind, then the fields.
            pub(crate) fn write(self, payload: &mut Vec<u8>) {
                match self {
                    $(Self::$kind $({ $($field),+ })? => {
                        payload.push($number);
                        $($($field.write(payload);)+)?
                    })+
                }
            }

            /// Returns the header of a kind, and the body after its fields.
            fn parse_kind(kind: u8, rest: &[u8]) -> Option<(Self, &[u8])> {
                match kind {
                    $($number => {
                        $($(let ($field, rest) = <$type>::read(rest)?;)+)?
                        Some((Self::$kind $({ $($field),+ })?, rest))
                    })+
                    _ => None,
                }
            }

            /// Returns true if a frame of this kind may have `count` descriptors.
            fn may_have(self, count: u8) -> bool {
                match self {
                    $(Self::$kind { .. } => matches!(count, $descriptors),)+
                }
            }

            #[cfg(test)]
            fn any() -> impl proptest::strategy::Strategy<Value = Self> {
                use proptest::strategy::{Just, Strategy, Union};
                Union::new([$(
                    (Just(()), $($(<$type as tests::Any>::any()),+)?)
                        .prop_map(|((), $($($field),+)?)| Self::$kind $({ $($field),+ })?)
                        .boxed()
                ),+])
            }
        }
    };
}

kinds! {
    /// The first frame of the master: the identity of the worker (see `hello`).
    1 = Hello, descriptors: 0,
    /// The worker is ready.
    2 = Ready, descriptors: 0,
    /// A request. `timeout` is the time for which its caller waits, if it is limited.
    3 = Request { number: RequestNumber, timeout: Option<Duration> }, descriptors: 1..,
    /// The answer to the request of that number.
    4 = Answer { number: RequestNumber }, descriptors: 1..,
    /// The refusal of the request of that number. The body is the reason in UTF-8.
    5 = Refusal { number: RequestNumber }, descriptors: 0,
    /// A message without an answer.
    6 = Notice, descriptors: 1..,
    /// The caller of that request no longer waits.
    7 = Cancel { number: RequestNumber }, descriptors: 0,
    /// A question of the master about the state of the work.
    8 = Heartbeat, descriptors: 0,
    /// The answer to a heartbeat.
    9 = HeartbeatReply { reply: HeartbeatReply }, descriptors: 0,
    /// Two descriptors: new standard output and standard error of the worker.
    10 = Outputs, descriptors: 2,
    /// The request of that number does not decode. The body is the reason in UTF-8.
    11 = NotUnderstood { number: RequestNumber }, descriptors: 0,
    /// Two descriptors: the memory into which the peer may write from now on, and the bell that wakes
    /// this side.
    12 = Ring, descriptors: 2,
    /// A request of a worker's library (see `service`), with or without a socket.
    13 = Service { number: RequestNumber }, descriptors: 1,
    /// The answer to the request of that number.
    14 = ServiceAnswer { number: RequestNumber }, descriptors: 1,
}

/// A field of a header. Integers are big-endian.
trait HeaderField: Sized {
    fn write(self, payload: &mut Vec<u8>);
    /// Returns the field and the bytes after it, or `None` if it is truncated.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])>;
}

impl HeaderField for RequestNumber {
    fn write(self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (number, rest) = bytes.split_first_chunk()?;
        Some((Self::from_be_bytes(*number), rest))
    }
}

/// Milliseconds, up to 49 days. 0 means `None`; a shorter time than one millisecond is written as
/// 1.
impl HeaderField for Option<Duration> {
    fn write(self, payload: &mut Vec<u8>) {
        let most = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
        self.map_or(0, most).write(payload);
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (milliseconds, rest) = u32::read(bytes)?;
        let time = (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
        Some((time, rest))
    }
}

impl HeaderField for HeartbeatReply {
    fn write(self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.finished.to_be_bytes());
        self.oldest.write(payload);
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (finished, rest) = bytes.split_first_chunk()?;
        let (oldest, rest) = HeaderField::read(rest)?;
        Some((Self { finished: u64::from_be_bytes(*finished), oldest }, rest))
    }
}

/// Added to the kind of a frame with descriptors. The next byte is their number.
const WITH_DESCRIPTORS: u8 = 0x80;

/// Adds the number of descriptors to the header at `start`: at least one, and at most the limit of
/// the kernel, which fits into a byte.
pub(crate) fn add_descriptors(payload: &mut Vec<u8>, start: usize, count: usize) {
    payload[start] |= WITH_DESCRIPTORS;
    payload.insert(start + 1, u8::try_from(count).unwrap_or(u8::MAX));
}

impl Header {
    /// Returns the header, the announced number of descriptors, and the body. Returns `None` if the
    /// kind is unknown, the header is truncated, or the kind does not permit the descriptors.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of a field that survive a round trip.
    pub(super) trait Any: Sized {
        fn any() -> BoxedStrategy<Self>;
    }

    impl Any for RequestNumber {
        fn any() -> BoxedStrategy<Self> {
            any::<Self>().boxed()
        }
    }

    impl Any for Option<Duration> {
        fn any() -> BoxedStrategy<Self> {
            prop::option::of((1..=u64::from(u32::MAX)).prop_map(Duration::from_millis)).boxed()
        }
    }

    impl Any for HeartbeatReply {
        fn any() -> BoxedStrategy<Self> {
            let fields = (any::<u64>(), <Option<Duration> as Any>::any());
            fields.prop_map(|(finished, oldest)| Self { finished, oldest }).boxed()
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in Header::any(), body: Vec<u8>) {
            let mut payload = Vec::new();
            header.write(&mut payload);
            payload.extend_from_slice(&body);
            prop_assert_eq!(Header::parse(&payload), Some((header, 0, &body[..])));
        }

        #[test]
        fn a_count_of_descriptors_is_read_where_there_may_be_any(
            header in Header::any(), count: u8, body: Vec<u8>,
        ) {
            let mut payload = b"before".to_vec();
            header.write(&mut payload);
            payload.extend_from_slice(&body);
            add_descriptors(&mut payload, 6, count.into());
            let may_have = match header {
                Header::Request { .. } | Header::Answer { .. } | Header::Notice => true,
                Header::Outputs | Header::Ring => count == 2,
                Header::Service { .. } | Header::ServiceAnswer { .. } => count == 1,
                Header::Hello | Header::Ready => false,
                Header::Refusal { .. } | Header::NotUnderstood { .. } => false,
                Header::Cancel { .. } | Header::Heartbeat | Header::HeartbeatReply { .. } => false,
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
    fn a_sub_millisecond_timeout_is_not_unlimited() {
        let written = |timeout: Option<Duration>| {
            let mut bytes = Vec::new();
            timeout.write(&mut bytes);
            bytes
        };
        assert_eq!(written(Some(Duration::from_micros(3))), [0, 0, 0, 1]);
        assert_eq!(written(Some(Duration::MAX)), [255; 4]);
        assert_eq!(written(None), [0; 4]);
    }
}
