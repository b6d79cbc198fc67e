//! Bytes of postcard's format to values.
//!
//! The bytes come from the peer. The work for them is proportional to their number. Only the limit
//! here bounds a sequence of elements that take no bytes.

use std::slice;

use postcard::Error;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};

use super::{CodecError, EMPTY, Fault, NO_KINDS};

/// Maximum stack size of a message's decoder. A recursive type is decoded by recursion, as deep as
/// the peer chooses, and a stack overflow ends the process.
const STACK: usize = 256 * 1024;

/// Decodes a whole payload.
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    let mut decoder = Decoder { rest: payload.iter(), depth: Depth::new(), empty: EMPTY };
    let value = T::deserialize(&mut decoder).map_err(Fault::into_error)?;
    match decoder.rest.as_slice() {
        [] => Ok(value),
        rest => Err(CodecError::new(format_args!("{} bytes follow the message", rest.len()))),
    }
}

/// Reads values from a payload.
struct Decoder<'de> {
    /// An iterator, because to take a byte then moves only its start.
    rest: slice::Iter<'de, u8>,
    depth: Depth,
    /// Number of further elements that may take no bytes.
    empty: usize,
}

/// The position of the stack when decoding started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth(usize);

impl Depth {
    pub(crate) fn new() -> Self {
        Self(stack_address())
    }

    /// Returns an error if the current level is too deep.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.0.abs_diff(stack_address()) > STACK {
            return Err(Fault::new("the message is nested too deeply"));
        }
        Ok(())
    }
}

/// Returns the approximate end of the stack.
fn stack_address() -> usize {
    let here = 0_u8;
    std::hint::black_box(&raw const here).addr()
}

impl<'de> Decoder<'de> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Fault> {
        self.rest.next().copied().ok_or_else(too_short)
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'de [u8], Fault> {
        let (taken, rest) = self.rest.as_slice().split_at_checked(count).ok_or_else(too_short)?;
        self.rest = rest.iter();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.as_slice().split_first_chunk().ok_or_else(too_short)?;
        self.rest = rest.iter();
        Ok(*taken)
    }

    /// Reads an integer of at most `bits` bits, 64 at most: seven in each byte, the least significant
    /// first.
    #[inline]
    fn integer(&mut self, bits: u32) -> Result<u64, Fault> {
        let first = self.byte()?;
        let mut value = u64::from(first & 0x7f);
        if first < 0x80 {
            return Ok(value);
        }
        for shift in (7..bits).step_by(7) {
            let byte = self.byte()?;
            if shift + 7 > bits && byte >> (bits - shift) > 0 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(bad_integer())
    }

    /// Reads an integer of 128 bits, in the same way.
    fn wide_integer(&mut self) -> Result<u128, Fault> {
        let mut value = 0;
        for shift in (0..u128::BITS).step_by(7) {
            let byte = self.byte()?;
            if shift + 7 > u128::BITS && byte >> (u128::BITS - shift) > 0 {
                break;
            }
            value |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(bad_integer())
    }

    /// Reads an unsigned integer.
    #[inline]
    fn unsigned<T: TryFrom<u64>>(&mut self, bits: u32) -> Result<T, Fault> {
        T::try_from(self.integer(bits)?).map_err(|_| bad_integer())
    }

    /// Reads a signed integer. They are numbered 0, -1, 1, -2, ...
    #[inline]
    fn signed<T: TryFrom<i64>>(&mut self, bits: u32) -> Result<T, Fault> {
        let value = self.integer(bits)?;
        let value = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
        T::try_from(value).map_err(|_| bad_integer())
    }

    fn counted(&mut self) -> Result<&'de [u8], Fault> {
        let count = self.unsigned(usize::BITS)?;
        self.take(count)
    }

    fn text(&mut self) -> Result<&'de str, Fault> {
        std::str::from_utf8(self.counted()?).map_err(|_| Error::DeserializeBadUtf8.into())
    }

    /// Reads the elements of a sequence or a map with `visit`.
    #[inline]
    fn sequence<T>(
        &mut self,
        visit: impl FnOnce(Elements<'_, 'de>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let count = self.unsigned(usize::BITS)?;
        self.depth.check()?;
        let begin = self.rest.len();
        if count > begin + self.empty {
            return Err(too_many(count, begin));
        }
        let value = visit(Elements { decoder: self, left: count })?;
        let empty = count.saturating_sub(begin - self.rest.len());
        self.empty = self.empty.checked_sub(empty).ok_or_else(too_empty)?;
        Ok(value)
    }

    fn parts<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.depth.check()?;
        visitor.visit_seq(Elements { decoder: self, left: count })
    }
}

#[cold]
fn too_short() -> Fault {
    Error::DeserializeUnexpectedEnd.into()
}

#[cold]
fn bad_integer() -> Fault {
    Error::DeserializeBadVarint.into()
}

/// The remaining parts of a struct or a tuple, or the remaining elements of a sequence or a map.
///
/// Two words: they stay in registers in a loop over many small elements.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

#[cold]
fn too_many(count: usize, left: usize) -> Fault {
    Fault::new(format_args!("a sequence claims {count} elements, and {left} bytes are left"))
}

#[cold]
fn too_empty() -> Fault {
    Fault::new(format_args!("more than {EMPTY} elements of the message take no bytes"))
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// Defines methods that read a number for the visitor.
macro_rules! numbers {
    ($($method:ident: $read:ident as $visit:ident($kind:ty)),* $(,)?) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit(self.$read::<$kind>(<$kind>::BITS)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = Fault;

    numbers! {
        deserialize_u16: unsigned as visit_u16(u16),
        deserialize_u32: unsigned as visit_u32(u32),
        deserialize_u64: unsigned as visit_u64(u64),
        deserialize_i16: signed as visit_i16(i16),
        deserialize_i32: signed as visit_i32(i32),
        deserialize_i64: signed as visit_i64(i64),
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u128(self.wide_integer()?)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = self.wide_integer()?;
        visitor.visit_i128((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(NO_KINDS))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(NO_KINDS))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(NO_KINDS))
    }

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u8(self.byte()?)
    }

    #[inline]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i8(self.byte()?.cast_signed())
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            byte @ 0..=1 => visitor.visit_bool(byte == 1),
            _ => Err(Error::DeserializeBadBool.into()),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f32(f32::from_le_bytes(self.array()?))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f64(f64::from_le_bytes(self.array()?))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let bytes = self.counted()?;
        // Like the format's crate, this ignores bytes after the first character.
        let letter = std::str::from_utf8(bytes).ok().filter(|_| bytes.len() <= 4);
        match letter.and_then(|text| text.chars().next()) {
            Some(letter) => visitor.visit_char(letter),
            None => Err(Error::DeserializeBadChar.into()),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_bytes(self.counted()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_bytes(self.counted()?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_none(),
            1 => {
                self.depth.check()?;
                visitor.visit_some(self)
            }
            _ => Err(Error::DeserializeBadOption.into()),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.depth.check()?;
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.sequence(|elements| visitor.visit_seq(elements))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.parts(count, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.parts(count, visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.sequence(|elements| visitor.visit_map(elements))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.parts(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.depth.check()?;
        visitor.visit_enum(self)
    }
}

impl<'de> de::EnumAccess<'de> for &mut Decoder<'de> {
    type Error = Fault;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let index: u32 = self.unsigned(u32::BITS)?;
        let index = de::value::U32Deserializer::<Fault>::new(index);
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Decoder<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.parts(count, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.parts(fields.len(), visitor)
    }
}
