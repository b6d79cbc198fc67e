//! The encoding of a state that one process image leaves to the next, with any number of
//! descriptors.

use std::os::fd::OwnedFd;

use serde::{Serialize, de::DeserializeOwned};

use super::fd_slots;
use super::format::CodecError;

/// Encodes a value as JSON. Returns duplicates of the [`Descriptor`](crate::ipc::Descriptor)s in
/// it, in the order of their indexes.
pub(crate) fn pack<T: Serialize>(value: &T) -> Result<(Vec<u8>, Vec<OwnedFd>), CodecError> {
    let mut bytes = Vec::new();
    let encode = || serde_json::to_writer(&mut bytes, value).map_err(CodecError::new);
    let descriptors = fd_slots::encoding(usize::MAX, encode)?;
    Ok((bytes, descriptors.into_iter().map(OwnedFd::from).collect()))
}

/// Decodes a value. A descriptor that occurs twice is an error. Descriptors in unknown parts of the
/// value are closed, and after an error all of them.
pub(crate) fn unpack<T: DeserializeOwned>(
    bytes: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<T, CodecError> {
    let decode = || serde_json::from_slice(bytes).map_err(CodecError::new);
    fd_slots::decoding_some(descriptors, decode).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::super::descriptor::Descriptor;
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct State {
        names: Vec<(String, Option<Descriptor>)>,
        all: Vec<Descriptor>,
    }

    fn state(writer: &PipeWriter, count: usize) -> State {
        let mut all = (0..count).map(|_| Descriptor::new(writer.try_clone().unwrap()));
        let first = all.next();
        State {
            names: vec![("first".to_owned(), first), (String::new(), None)],
            all: all.collect(),
        }
    }

    fn is_closed(mut reader: PipeReader) {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn more_descriptors_than_any_message_has_come_back() {
        let (reader, writer) = pipe().unwrap();
        let value = state(&writer, 400);
        let (bytes, descriptors) = pack(&value).unwrap();
        drop((value, writer));
        assert_eq!(descriptors.len(), 400);
        let value: State = unpack(&bytes, descriptors).unwrap();
        assert!(value.names[0].1.is_some() && value.names[1].1.is_none());
        assert_eq!(value.all.len(), 399);
        drop(value);
        is_closed(reader);
    }

    #[test]
    fn a_descriptor_too_few_is_an_error_one_too_many_is_of_a_part_that_is_not_known() {
        for (count, is_right) in [(2, false), (3, true), (4, true)] {
            let (reader, writer) = pipe().unwrap();
            let (bytes, mut descriptors) = pack(&state(&writer, 3)).unwrap();
            descriptors.resize_with(count, || writer.try_clone().unwrap().into());
            drop(writer);
            let value = unpack::<State>(&bytes, descriptors);
            assert_eq!(value.is_ok(), is_right, "{count}");
            drop(value);
            is_closed(reader);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error_and_no_descriptor_is_left(
            bytes in prop::collection::vec(prop::sample::select(b"[]{}:,\"01234".to_vec()), 0..24),
            count in 0_usize..6,
        ) {
            let (reader, writer) = pipe().unwrap();
            let descriptors = (0..count).map(|_| writer.try_clone().unwrap().into()).collect();
            drop(writer);
            let value = unpack::<State>(&bytes, descriptors);
            if let Ok(value) = &value {
                let named = value.names.iter().filter(|(_, one)| one.is_some()).count();
                prop_assert!(named + value.all.len() <= count);
            }
            drop(value);
            is_closed(reader);
        }

        #[test]
        fn a_blob_with_a_changed_byte_gives_a_value_or_an_error(
            at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let (reader, writer) = pipe().unwrap();
            let (mut bytes, descriptors) = pack(&state(&writer, 4)).unwrap();
            drop(writer);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(unpack::<State>(&bytes, descriptors));
            is_closed(reader);
        }
    }
}
