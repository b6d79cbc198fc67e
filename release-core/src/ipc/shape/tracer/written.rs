//! Whether a type writes what it reads.

use std::os::fd::OwnedFd;

use serde::{Serialize, de::DeserializeOwned};

use super::Stop;
use crate::ipc::codec::encode;
use crate::ipc::{Codec, Postcard, fd_slots};

/// Whether a value writes the bytes that it was made of, or others that come back as themselves: a
/// type may take more than it gives.
pub(super) fn writes_what_it_reads<T: Serialize + DeserializeOwned>(
    value: &T,
    given: &[u8],
) -> Result<(), Stop> {
    let Some((bytes, files)) = write(value)? else { return Ok(()) };
    if bytes == given {
        return Ok(());
    }
    let again = fd_slots::decoding(files, || Codec::<T>::decode(&Postcard, &bytes));
    match again.ok().map(|again| write(&again)).transpose()?.flatten() {
        Some((second, _)) if second == bytes => Ok(()),
        _ => Err(Stop::Unwritten(UNEQUAL.to_owned())),
    }
}

type Written = (Vec<u8>, Vec<OwnedFd>);

/// The encoding of a value; none if the value itself refuses.
fn write<T: Serialize>(value: &T) -> Result<Option<Written>, Stop> {
    let (mut bytes, mut fault) = (Vec::new(), None);
    let written = fd_slots::encoding(usize::MAX, || {
        encode(value, &mut bytes).map_err(|error| fault.insert(error).error().clone())
    });
    match (written, fault) {
        (Ok(files), _) => Ok(Some((bytes, files))),
        (Err(error), Some(fault)) if fault.is_of_the_format() => {
            Err(Stop::Unwritten(error.to_string()))
        }
        (Err(_), _) => Ok(None),
    }
}

const UNEQUAL: &str = "it writes something else than it reads, as with serde's `skip_serializing`, \
                       `skip_serializing_if`, or `skip` at a variant that is not the last; take \
                       another codec, or another type";
