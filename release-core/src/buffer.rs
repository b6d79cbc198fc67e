//! `Buffer`: bytes with a size that was set aside and a length that is in use.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::str::Utf8Error;
use std::task::Poll;

use ::bytes::BytesMut;

use crate::net::Stream;

/// How much is received at once: room for it is made ready anew for each try.
const MOST_AT_ONCE: usize = 64 * 1024;

/// Bytes that are not there were to be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfRange {
    /// Where the bytes should have begun.
    pub offset: usize,
    /// How many were wanted.
    pub count: usize,
    /// How many there are, from offset 0 on.
    pub available: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, count, available } = self;
        write!(f, "out of range: {count} bytes at offset {offset}, but there are {available}")
    }
}

impl Error for OutOfRange {}

/// For calls that may fail for both reasons; [`io::ErrorKind::InvalidInput`].
impl From<OutOfRange> for io::Error {
    fn from(error: OutOfRange) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The range of `count` bytes at `offset`, if `available` bytes contain it.
pub(crate) fn range(
    offset: usize,
    count: usize,
    available: usize,
) -> Result<Range<usize>, OutOfRange> {
    match offset.checked_add(count) {
        Some(end) if end <= available => Ok(offset..end),
        _ => Err(OutOfRange { offset, count, available }),
    }
}

/// A growing sequence of bytes that is filled at its end or at any offset.
///
/// The *length* is one more than the highest offset that was ever written; the *size* is how many
/// bytes have been set aside. Adding to the end makes both grow. What names an offset must stay
/// within: reads within the length, writes within the size; everything else is [`OutOfRange`]. A
/// gap that is left between the old end and a write beyond it holds zeros.
///
/// All numbers are in bytes.
///
/// # Examples
///
/// ```
/// use release_core::buffer::Buffer;
///
/// let mut buffer = Buffer::create(8);
/// buffer.add_bytes("key=");
/// buffer.add_bytes("value");
/// let equals = buffer.index(b'=').expect("it is there");
/// assert_eq!(buffer.sub(0, equals)?, b"key");
/// assert_eq!(buffer.length(), 9);
/// assert!(buffer.get(9).is_err());
/// # Ok::<(), release_core::bytes::OutOfRange>(())
/// ```
#[derive(Clone, Default)]
pub struct Buffer {
    bytes: BytesMut,
    /// Kept here because the allocation may be larger than what was asked for.
    size: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("size", &self.size).field("bytes", &self.bytes).finish()
    }
}

impl Buffer {
    /// An empty buffer of a size.
    ///
    /// # Panics
    ///
    /// When the size is more than `isize::MAX`: check sizes that came from a peer first.
    #[must_use]
    pub fn create(size: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(size), size }
    }

    /// A full buffer of `size` times the same byte.
    ///
    /// # Panics
    ///
    /// When the size is more than `isize::MAX`.
    #[must_use]
    pub fn make(size: usize, byte: u8) -> Self {
        let mut buffer = Self::create(size);
        buffer.bytes.resize(size, byte);
        buffer
    }

    /// A full buffer with a copy of these bytes.
    #[must_use]
    pub fn of_string(text: impl AsRef<[u8]>) -> Self {
        let mut buffer = Self::default();
        buffer.add_bytes(text);
        buffer
    }

    /// How many bytes are set aside.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many bytes are in use.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes in use.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes in use as text.
    ///
    /// # Errors
    ///
    /// When they are not UTF-8.
    #[doc(alias = "to_string")]
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.bytes)
    }

    /// The byte at an offset.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] from the length on.
    pub fn get(&self, offset: usize) -> Result<u8, OutOfRange> {
        Ok(self.sub(offset, 1)?[0])
    }

    /// Sets the byte at an offset.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] from the size on.
    pub fn set(&mut self, offset: usize, byte: u8) -> Result<(), OutOfRange> {
        self.put(offset, &[byte])
    }

    /// The offset of the first such byte.
    #[must_use]
    pub fn index(&self, byte: u8) -> Option<usize> {
        self.index_from(0, byte)
    }

    /// The offset of the first such byte at or after an offset; `None` also when that is beyond
    /// the end.
    #[must_use]
    pub fn index_from(&self, offset: usize, byte: u8) -> Option<usize> {
        let found = self.bytes.get(offset..)?.iter().position(|known| *known == byte)?;
        Some(offset + found)
    }

    /// Adds a byte to the end.
    pub fn add_char(&mut self, byte: u8) {
        self.add_bytes([byte]);
    }

    /// Adds bytes or text to the end.
    ///
    /// # Panics
    ///
    /// When the length would be more than `isize::MAX`.
    #[doc(alias = "add_string")]
    pub fn add_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(bytes.as_ref());
        self.size = self.size.max(self.bytes.len());
    }

    /// Adds what another buffer holds to the end.
    pub fn add_buffer(&mut self, other: &Self) {
        self.add_bytes(other);
    }

    /// Copies `count` bytes from `offset` on into another buffer, over those at `to_offset`.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when they are not all within this buffer's length and the other's size; then
    /// nothing has changed.
    pub fn blit(
        &self,
        offset: usize,
        to: &mut Self,
        to_offset: usize,
        count: usize,
    ) -> Result<(), OutOfRange> {
        to.put(to_offset, self.sub(offset, count)?)
    }

    /// The `count` bytes from `offset` on, which are not copied.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when they are not all within the length.
    pub fn sub(&self, offset: usize, count: usize) -> Result<&[u8], OutOfRange> {
        Ok(&self.bytes[range(offset, count, self.length())?])
    }

    /// Receives what is there, at most `count` bytes, and puts it at `offset`. Returns how many
    /// bytes there were; 0 is the end of file (or a `count` of 0).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] as an [`io::ErrorKind::InvalidInput`] when they do not fit within the size;
    /// otherwise those of [`Stream::read_once`].
    ///
    /// # Cancel safety
    ///
    /// A dropped call has read nothing and changed nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::buffer::Buffer;
    /// use release_core::net::Stream;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let rt = driver.handle();
    ///     let (here, there) = (Stream::new(&rt, here.into())?, Stream::new(&rt, there.into())?);
    ///     let greeting = Buffer::of_string("hello");
    ///     assert_eq!(greeting.write(&here, 0, 5).await?, 5);
    ///
    ///     let mut heard = Buffer::create(64);
    ///     assert_eq!(heard.read(&there, 0, 64).await?, 5);
    ///     assert_eq!(heard.contents(), b"hello");
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "read_once")]
    pub async fn read(
        &mut self,
        stream: &Stream,
        offset: usize,
        count: usize,
    ) -> io::Result<usize> {
        let mut wanted = range(offset, count, self.size)?;
        wanted.end = wanted.end.min(offset + MOST_AT_ONCE);
        let length = self.length();
        poll_fn(|cx| {
            // Longer only while the kernel writes, whatever becomes of this future.
            self.bytes.resize(length.max(wanted.end), 0);
            let polled = stream.poll_receive(cx, &mut self.bytes[wanted.clone()]);
            let end = match polled {
                Poll::Ready(Ok(count)) if count > 0 => offset + count,
                _ => 0,
            };
            self.bytes.truncate(length.max(end));
            polled
        })
        .await
    }

    /// Sends at most `count` of the bytes from `offset` on, and says how many.
    ///
    /// [`Stream::write_all`] sends all of a buffer's [`contents`](Self::contents).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] as an [`io::ErrorKind::InvalidInput`] when they are not all within the
    /// length; otherwise those of [`Stream::write_all`].
    ///
    /// # Cancel safety
    ///
    /// A dropped call has sent nothing.
    pub async fn write(&self, stream: &Stream, offset: usize, count: usize) -> io::Result<usize> {
        let bytes = self.sub(offset, count)?;
        poll_fn(|cx| stream.poll_send(cx, &[IoSlice::new(bytes)])).await
    }

    /// Writes at an offset, within the size.
    fn put(&mut self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let range = range(offset, bytes.len(), self.size)?;
        // To put nothing beyond the end makes nothing longer.
        if !bytes.is_empty() {
            self.bytes.resize(self.length().max(range.end), 0);
            self.bytes[range].copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes in use.
impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
