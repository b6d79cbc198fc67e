//! The message in a frame: bytes and the descriptors that are sent with them.

use super::codec::Codec;
use super::descriptor::Descriptor;
use super::fd_slots;
use super::format::CodecError;
use crate::sys::untrusted::Untrusted;

/// The size of a message in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: usize,
    pub(crate) descriptors: usize,
}

const LOST: &str = "its descriptors did not arrive: this process has no free ones (RLIMIT_NOFILE)";

/// A received message.
#[derive(Debug, Default)]
pub(crate) struct Body<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) descriptors: Vec<Untrusted>,
    /// Its descriptors did not arrive: this process had no free ones.
    pub(crate) is_lost: bool,
}

impl Body<'_> {
    pub(crate) fn size(&self) -> Size {
        Size { bytes: self.bytes.len(), descriptors: self.descriptors.len() }
    }

    /// Decodes the message. Descriptors outside the message are closed.
    pub(crate) fn decode<T>(self, codec: &impl Codec<T>) -> Result<T, CodecError> {
        if self.is_lost {
            return Err(CodecError::new(LOST));
        }
        if self.descriptors.is_empty() {
            return codec.decode(self.bytes);
        }
        fd_slots::decoding(self.descriptors, || codec.decode(self.bytes))
    }
}

/// A message that is being encoded.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    /// A buffer that already contains other bytes.
    pub(crate) bytes: &'a mut Vec<u8>,
    pub(crate) descriptors: Vec<Descriptor>,
    /// Maximum number of descriptors.
    room: usize,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>, room: usize) -> Self {
        Self { bytes, descriptors: Vec::new(), room }
    }

    pub(crate) fn encode<T>(
        &mut self,
        codec: &impl Codec<T>,
        message: &T,
    ) -> Result<(), CodecError> {
        if self.room == 0 {
            let start = self.bytes.len();
            if codec.encode(message, self.bytes).is_ok() {
                return Ok(());
            }
            // Encoded again, for a precise error if a descriptor was the reason.
            self.bytes.truncate(start);
        }
        self.descriptors = fd_slots::encoding(self.room, || codec.encode(message, self.bytes))?;
        Ok(())
    }
}
