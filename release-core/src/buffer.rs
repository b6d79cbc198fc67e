//! `Buffer`: bytes with a reserved size and a length in use.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::str::Utf8Error;
use std::task::Poll;

use ::bytes::BytesMut;

use crate::net::Stream;

/// Number of bytes received at once: room for it is prepared anew for each attempt.
const MOST_AT_ONCE: usize = 64 * 1024;

/// The error of a read or write outside the available bytes.
///
/// # Examples
///
/// ```
/// use release_core::buffer::{Buffer, OutOfRange};
///
/// fn third_byte(buffer: &Buffer) -> Result<u8, OutOfRange> {
///     buffer.get(2)
/// }
/// let error = third_byte(&Buffer::of_string("ab")).expect_err("too short");
/// assert_eq!((error.offset, error.available), (2, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfRange {
    /// The offset of the requested bytes.
    pub offset: usize,
    /// Number of requested bytes.
    pub count: usize,
    /// Number of available bytes, from offset 0 on.
    pub available: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, count, available } = self;
        write!(f, "out of range: {count} bytes at offset {offset}, but there are {available}")
    }
}

impl Error for OutOfRange {}

/// Converts into [`io::ErrorKind::InvalidInput`], for calls that may fail for both reasons.
impl From<OutOfRange> for io::Error {
    fn from(error: OutOfRange) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Returns the range of `count` bytes at `offset`, if it lies within `available` bytes.
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
/// The *length* is one more than the highest offset ever written; the *size* is the number of
/// reserved bytes. Appending grows both. Operations with an offset must stay in range: reads within
/// the length, writes within the size; otherwise they return [`OutOfRange`]. A gap between the old
/// end and a write beyond it is filled with zeros.
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
    /// Stored here because the allocation may be larger than requested.
    size: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("size", &self.size).field("bytes", &self.bytes).finish()
    }
}

impl Buffer {
    /// Creates an empty buffer of a size.
    ///
    /// # Panics
    ///
    /// Panics if the size is more than `isize::MAX`: check sizes received from a peer first.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let buffer = Buffer::create(64);
    /// assert_eq!((buffer.size(), buffer.length()), (64, 0));
    /// ```
    #[must_use]
    pub fn create(size: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(size), size }
    }

    /// Creates a full buffer with `size` copies of a byte.
    ///
    /// # Panics
    ///
    /// Panics if the size is more than `isize::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// assert_eq!(Buffer::make(3, b'-').contents(), b"---");
    /// ```
    #[must_use]
    pub fn make(size: usize, byte: u8) -> Self {
        let mut buffer = Self::create(size);
        buffer.bytes.resize(size, byte);
        buffer
    }

    /// Creates a full buffer with a copy of these bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// assert_eq!(Buffer::of_string("hello").length(), 5);
    /// ```
    #[must_use]
    pub fn of_string(text: impl AsRef<[u8]>) -> Self {
        let mut buffer = Self::default();
        buffer.add_bytes(text);
        buffer
    }

    /// Returns the number of reserved bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut buffer = Buffer::create(4);
    /// buffer.add_bytes("hello");
    /// assert_eq!(buffer.size(), 5);
    /// ```
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of bytes in use.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut buffer = Buffer::create(4);
    /// buffer.add_bytes("abc");
    /// assert_eq!(buffer.length(), 3);
    /// ```
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes in use.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// assert_eq!(Buffer::of_string("abc").contents(), b"abc");
    /// ```
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes in use as text.
    ///
    /// # Errors
    ///
    /// Returns an error if they are not UTF-8.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// assert_eq!(Buffer::of_string("abc").to_str(), Ok("abc"));
    /// assert!(Buffer::of_string([0xff]).to_str().is_err());
    /// ```
    #[doc(alias = "to_string")]
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.bytes)
    }

    /// Returns the byte at an offset.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the offset is not below the length.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let buffer = Buffer::of_string("abc");
    /// assert_eq!(buffer.get(0), Ok(b'a'));
    /// assert!(buffer.get(3).is_err());
    /// ```
    pub fn get(&self, offset: usize) -> Result<u8, OutOfRange> {
        Ok(self.sub(offset, 1)?[0])
    }

    /// Sets the byte at an offset.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the offset is not below the size.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut buffer = Buffer::create(3);
    /// buffer.set(2, b'c')?;
    /// assert_eq!(buffer.contents(), b"\0\0c");
    /// # Ok::<(), release_core::bytes::OutOfRange>(())
    /// ```
    pub fn set(&mut self, offset: usize, byte: u8) -> Result<(), OutOfRange> {
        self.put(offset, &[byte])
    }

    /// Returns the offset of the first occurrence of a byte.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let line = Buffer::of_string("GET / HTTP/1.1");
    /// assert_eq!(line.index(b' '), Some(3));
    /// ```
    #[must_use]
    pub fn index(&self, byte: u8) -> Option<usize> {
        self.index_from(0, byte)
    }

    /// Returns the offset of the first occurrence of a byte at or after an offset, or `None`, also
    /// if that offset is beyond the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let line = Buffer::of_string("GET / HTTP/1.1");
    /// assert_eq!(line.index_from(4, b' '), Some(5));
    /// assert_eq!(line.index_from(100, b' '), None);
    /// ```
    #[must_use]
    pub fn index_from(&self, offset: usize, byte: u8) -> Option<usize> {
        let found = self.bytes.get(offset..)?.iter().position(|known| *known == byte)?;
        Some(offset + found)
    }

    /// Appends a byte.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut line = Buffer::of_string("OK");
    /// line.add_char(b'\n');
    /// assert_eq!(line.contents(), b"OK\n");
    /// ```
    pub fn add_char(&mut self, byte: u8) {
        self.add_bytes([byte]);
    }

    /// Appends bytes or text.
    ///
    /// # Panics
    ///
    /// Panics if the length would exceed `isize::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut packet = Buffer::create(16);
    /// packet.add_bytes("name");
    /// packet.add_bytes([0, 1]);
    /// assert_eq!(packet.contents(), b"name\x00\x01");
    /// ```
    #[doc(alias = "add_string")]
    pub fn add_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(bytes.as_ref());
        self.size = self.size.max(self.bytes.len());
    }

    /// Appends the content of another buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut message = Buffer::of_string("head");
    /// message.add_buffer(&Buffer::of_string("body"));
    /// assert_eq!(message.contents(), b"headbody");
    /// ```
    pub fn add_buffer(&mut self, other: &Self) {
        self.add_bytes(other);
    }

    /// Copies `count` bytes, starting at `offset`, into another buffer, over the bytes at
    /// `to_offset`.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the bytes are not all within this buffer's length and the other's
    /// size. Nothing is then changed.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// let mut to = Buffer::of_string("....");
    /// Buffer::of_string("abcd").blit(1, &mut to, 0, 2)?;
    /// assert_eq!(to.contents(), b"bc..");
    /// # Ok::<(), release_core::bytes::OutOfRange>(())
    /// ```
    pub fn blit(
        &self,
        offset: usize,
        to: &mut Self,
        to_offset: usize,
        count: usize,
    ) -> Result<(), OutOfRange> {
        to.put(to_offset, self.sub(offset, count)?)
    }

    /// Returns the `count` bytes that start at `offset`, without copying them.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if they are not all within the length.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    ///
    /// assert_eq!(Buffer::of_string("abcd").sub(1, 2)?, b"bc");
    /// # Ok::<(), release_core::bytes::OutOfRange>(())
    /// ```
    pub fn sub(&self, offset: usize, count: usize) -> Result<&[u8], OutOfRange> {
        Ok(&self.bytes[range(offset, count, self.length())?])
    }

    /// Receives the available bytes, at most `count`, and writes them at `offset`. Returns the
    /// number of bytes; 0 is the end of file (or a `count` of 0).
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] as an [`io::ErrorKind::InvalidInput`] if the bytes do not fit within
    /// the size, and otherwise the errors of [`Stream::read_once`].
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has read nothing and changed nothing.
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
            // Longer only while the kernel writes, even if this future is dropped.
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

    /// Sends at most `count` bytes, starting at `offset`. Returns the number of bytes sent.
    ///
    /// [`Stream::write_all`] sends all of a buffer's [`contents`](Self::contents).
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] as an [`io::ErrorKind::InvalidInput`] if the bytes are not all within
    /// the length, and otherwise the errors of [`Stream::write_all`].
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped has sent nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{buffer::Buffer, net::Stream};
    ///
    /// async fn send(packet: &Buffer, stream: &Stream) -> std::io::Result<()> {
    ///     let mut sent = 0;
    ///     while sent < packet.length() {
    ///         sent += packet.write(stream, sent, packet.length() - sent).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn write(&self, stream: &Stream, offset: usize, count: usize) -> io::Result<usize> {
        let bytes = self.sub(offset, count)?;
        poll_fn(|cx| stream.poll_send(cx, &[IoSlice::new(bytes)])).await
    }

    /// Writes at an offset, within the size.
    fn put(&mut self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let range = range(offset, bytes.len(), self.size)?;
        // Writing zero bytes beyond the end does not extend the length.
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
