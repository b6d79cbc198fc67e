//! Integers as bytes: 8 to 128 bits, signed and unsigned, in both byte orders.
//!
//! The type of the value selects the integer; [`BigEndian`] or [`LittleEndian`] selects the byte
//! order:
//!
//! | in the OCaml library | here |
//! |---|---|
//! | `read_byte_at`, `read_byte`, `write_byte` | `u8` (or `i8`), in either order |
//! | `read_int16_at i buf`, ... | `BigEndian::read_at::<i16>(&buffer, i)?` (or `u16`) |
//! | `read_int_at` (4 bytes), `read_int32_at`, `read_uint32_at` | the same with `i32` or `u32` |
//! | `read_int64_at`, `read_uint64_at`, `read_uint128_at` | the same with `i64`, `u64`, `u128` or `i128` |
//! | `read_X buf` | `BigEndian::read(&buffer)?`, which is `read_at` with offset 0 |
//! | `write_X n buf` | `BigEndian::write(n, &mut buffer)`, which adds to the end |
//! | `write_X_byte n buf` | `BigEndian::write_byte(n, &mut buffer)`, the lowest 8 bits alone |
//! | | `BigEndian::write_at(n, &mut bytes, i)?`, over bytes that are there |
//!
//! # Examples
//!
//! ```
//! use release_core::buffer::Buffer;
//! use release_core::bytes::{BigEndian, Endian, LittleEndian};
//!
//! let mut packet = Buffer::create(16);
//! BigEndian::write(0x0102_u16, &mut packet);
//! LittleEndian::write(-2_i32, &mut packet);
//! assert_eq!(packet.contents(), [1, 2, 0xfe, 0xff, 0xff, 0xff]);
//!
//! let length: u16 = BigEndian::read(&packet)?;
//! assert_eq!(length, 0x0102);
//! assert_eq!(LittleEndian::read_at::<i32>(&packet, 2)?, -2);
//! // What a peer did not send is an error, never a panic.
//! assert!(LittleEndian::read_at::<i32>(&packet, 3).is_err());
//! # Ok::<(), release_core::bytes::OutOfRange>(())
//! ```

use std::fmt;

use byteorder::ByteOrder;
pub use byteorder::{BigEndian, LittleEndian};

pub use crate::buffer::OutOfRange;
use crate::buffer::{Buffer, range};

/// An integer of fixed size: `u8` to `u128` and `i8` to `i128`.
///
/// # Examples
///
/// ```
/// use release_core::bytes::Integer;
///
/// assert_eq!((u16::SIZE, i128::SIZE), (2, 16));
/// ```
pub trait Integer: Copy + fmt::Debug + private::Coded {
    /// The size in bytes.
    const SIZE: usize;
}

mod private {
    use byteorder::ByteOrder;

    /// Seals `Integer`. Both methods receive exactly as many bytes as the integer has.
    #[allow(unnameable_types)]
    pub trait Coded {
        fn decode<O: ByteOrder>(bytes: &[u8]) -> Self;
        fn encode<O: ByteOrder>(self, bytes: &mut [u8]);
    }
}

macro_rules! integers {
    ($($integer:ident: $read:expr, $write:expr;)*) => {$(
        impl Integer for $integer {
            const SIZE: usize = size_of::<Self>();
        }

        impl private::Coded for $integer {
            fn decode<O: ByteOrder>(bytes: &[u8]) -> Self {
                $read(bytes)
            }

            fn encode<O: ByteOrder>(self, bytes: &mut [u8]) {
                $write(bytes, self);
            }
        }
    )*};
}

integers! {
    u8: |bytes: &[u8]| bytes[0], |bytes: &mut [u8], value| bytes[0] = value;
    i8: |bytes: &[u8]| bytes[0].cast_signed(), |bytes: &mut [u8], value: Self| bytes[0] = value.cast_unsigned();
    u16: O::read_u16, O::write_u16;
    i16: O::read_i16, O::write_i16;
    u32: O::read_u32, O::write_u32;
    i32: O::read_i32, O::write_i32;
    u64: O::read_u64, O::write_u64;
    i64: O::read_i64, O::write_i64;
    u128: O::read_u128, O::write_u128;
    i128: O::read_i128, O::write_i128;
}

/// Size of the largest integer.
const LARGEST: usize = size_of::<u128>();

/// Reads and writes integers in one byte order; see the [module](self) for the whole table.
///
/// # Examples
///
/// ```
/// use release_core::bytes::{BigEndian, Endian, LittleEndian, OutOfRange};
///
/// fn port<E: Endian>(packet: &[u8]) -> Result<u16, OutOfRange> {
///     E::read_at(packet, 2)
/// }
/// assert_eq!(port::<BigEndian>(&[0, 0, 1, 2]), Ok(0x0102));
/// assert_eq!(port::<LittleEndian>(&[0, 0, 1, 2]), Ok(0x0201));
/// ```
pub trait Endian: ByteOrder {
    /// Reads the integer that begins at `offset` (in bytes, from 0).
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the integer extends past the end of the bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::bytes::{BigEndian, Endian};
    ///
    /// assert_eq!(BigEndian::read_at::<u32>([9, 0, 0, 1, 2], 1), Ok(258));
    /// assert!(BigEndian::read_at::<u32>([9, 0, 0, 1, 2], 2).is_err());
    /// ```
    #[doc(alias("read_byte_at", "read_int16_at", "read_int_at", "read_int32_at"))]
    #[doc(alias("read_uint32_at", "read_int64_at", "read_uint64_at", "read_uint128_at"))]
    fn read_at<I: Integer>(bytes: impl AsRef<[u8]>, offset: usize) -> Result<I, OutOfRange> {
        let bytes = bytes.as_ref();
        let range = range(offset, I::SIZE, bytes.len())?;
        Ok(I::decode::<Self>(&bytes[range]))
    }

    /// Reads the integer at the beginning.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the integer extends past the end of the bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::bytes::{Endian, LittleEndian};
    ///
    /// assert_eq!(LittleEndian::read::<i16>([0xff, 0xff]), Ok(-1));
    /// assert_eq!(LittleEndian::read::<u16>([0xff, 0xff]), Ok(65535));
    /// ```
    #[doc(alias("read_byte", "read_int16", "read_int", "read_int32"))]
    #[doc(alias("read_uint32", "read_int64", "read_uint64", "read_uint128"))]
    fn read<I: Integer>(bytes: impl AsRef<[u8]>) -> Result<I, OutOfRange> {
        Self::read_at(bytes, 0)
    }

    /// Appends an integer to a buffer, which grows as needed.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    /// use release_core::bytes::{BigEndian, Endian};
    ///
    /// let mut buffer = Buffer::create(16);
    /// BigEndian::write(1_u128, &mut buffer);
    /// assert_eq!(buffer.length(), 16);
    /// assert_eq!(buffer.get(15), Ok(1));
    /// ```
    #[doc(alias("write_int16", "write_int", "write_int32", "write_uint32"))]
    #[doc(alias("write_int64", "write_uint64", "write_uint128"))]
    fn write<I: Integer>(value: I, buffer: &mut Buffer) {
        let mut bytes = [0; LARGEST];
        let bytes = &mut bytes[..I::SIZE];
        value.encode::<Self>(bytes);
        buffer.add_bytes(bytes);
    }

    /// Appends the lowest 8 bits of an integer to a buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    /// use release_core::bytes::{BigEndian, Endian};
    ///
    /// let mut buffer = Buffer::create(1);
    /// BigEndian::write_byte(0x1234_i16, &mut buffer);
    /// assert_eq!(buffer.contents(), [0x34]);
    /// ```
    #[doc(alias("write_int16_byte", "write_int_byte", "write_int32_byte", "write_uint32_byte"))]
    #[doc(alias("write_int64_byte", "write_uint64_byte", "write_uint128_byte"))]
    fn write_byte<I: Integer>(value: I, buffer: &mut Buffer) {
        let mut bytes = [0; LARGEST];
        value.encode::<LittleEndian>(&mut bytes[..I::SIZE]);
        buffer.add_char(bytes[0]);
    }

    /// Overwrites the bytes at `offset` (in bytes, from 0) with an integer.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfRange`] if the integer does not fit between the offset and the end. Nothing
    /// is then changed.
    ///
    /// # Examples
    ///
    /// A length that is known only after the rest has been written:
    ///
    /// ```
    /// use release_core::buffer::Buffer;
    /// use release_core::bytes::{BigEndian, Endian};
    ///
    /// let mut frame = Buffer::make(4, 0);
    /// frame.add_bytes("hello");
    /// BigEndian::write_at(5_u32, &mut frame, 0)?;
    /// assert_eq!(frame.contents(), b"\0\0\0\x05hello");
    /// # Ok::<(), release_core::bytes::OutOfRange>(())
    /// ```
    fn write_at<I: Integer>(
        value: I,
        bytes: &mut (impl AsMut<[u8]> + ?Sized),
        offset: usize,
    ) -> Result<(), OutOfRange> {
        let bytes = bytes.as_mut();
        let range = range(offset, I::SIZE, bytes.len())?;
        value.encode::<Self>(&mut bytes[range]);
        Ok(())
    }
}

impl Endian for BigEndian {}
impl Endian for LittleEndian {}
