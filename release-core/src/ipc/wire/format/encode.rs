//! Values to bytes in postcard's format. Unsupported values are an error here, because a reader
//! could not detect them.

use serde::Serialize;
use serde::ser::{self, Serializer};

use super::{EMPTY, Fault, LEFT_OUT, UNSIZED};

/// The output of postcard: the end of a buffer that already contains other frames.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends the encoding of a value.
pub(crate) fn encode<T: Serialize>(value: &T, payload: &mut Vec<u8>) -> Result<(), Fault> {
    let output = postcard::Serializer { output: Append(payload) };
    value.serialize(&mut Encoder { output, empty: EMPTY })
}

/// Postcard's serializer, which also counts the parts of a value.
struct Encoder<'a> {
    output: postcard::Serializer<Append<'a>>,
    /// Number of further elements that may take no bytes.
    empty: usize,
}

impl<'a> Encoder<'a> {
    fn length(&self) -> usize {
        self.output.output.0.len()
    }

    /// Starts a value with `count` parts.
    #[inline]
    fn parts<'e>(&'e mut self, count: usize) -> Parts<'e, 'a> {
        Parts { encoder: self, left: count, sequence: None }
    }

    /// Starts a sequence, which must know the number of its elements.
    #[inline]
    fn sequence<'e>(&'e mut self, count: Option<usize>) -> Result<Parts<'e, 'a>, Fault> {
        let count = count.ok_or_else(|| Fault::new(UNSIZED))?;
        self.output.serialize_u64(count as u64)?;
        let sequence = Some((count, self.length()));
        Ok(Parts { encoder: self, left: count, sequence })
    }

    #[inline]
    fn variant(&mut self, index: u32) -> Result<&mut Self, Fault> {
        self.output.serialize_u32(index)?;
        Ok(self)
    }
}

/// The parts of a struct, a tuple or a sequence.
struct Parts<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    /// Number of parts that must follow.
    left: usize,
    /// For a sequence: the number of its elements, and where they start.
    sequence: Option<(usize, usize)>,
}

impl Parts<'_, '_> {
    #[inline]
    fn part<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::new(LEFT_OUT))?;
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn finish(self) -> Result<(), Fault> {
        if self.left > 0 {
            return Err(Fault::new(LEFT_OUT));
        }
        let Some((count, begins)) = self.sequence else { return Ok(()) };
        let empty = count.saturating_sub(self.encoder.length() - begins);
        self.encoder.empty = self.encoder.empty.checked_sub(empty).ok_or_else(too_empty)?;
        Ok(())
    }
}

#[cold]
fn too_empty() -> Fault {
    Fault::new(format_args!("more than {EMPTY} elements of the message take no bytes"))
}

/// Defines methods for values without parts, which postcard writes.
macro_rules! plain {
    ($($method:ident: $kind:ty),* $(,)?) => {$(
        #[inline]
        fn $method(self, value: $kind) -> Result<(), Fault> {
            Ok(self.output.$method(value)?)
        }
    )*};
}

impl<'e, 'a> Serializer for &'e mut Encoder<'a> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Parts<'e, 'a>;
    type SerializeTuple = Parts<'e, 'a>;
    type SerializeTupleStruct = Parts<'e, 'a>;
    type SerializeTupleVariant = Parts<'e, 'a>;
    type SerializeMap = Parts<'e, 'a>;
    type SerializeStruct = Parts<'e, 'a>;
    type SerializeStructVariant = Parts<'e, 'a>;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn collect_str<T: ?Sized + std::fmt::Display>(self, value: &T) -> Result<(), Fault> {
        Ok(self.output.collect_str(value)?)
    }

    fn serialize_none(self) -> Result<(), Fault> {
        Ok(self.output.serialize_none()?)
    }

    #[inline]
    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Fault> {
        self.output.serialize_u8(1)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
    ) -> Result<(), Fault> {
        self.variant(index).map(drop)
    }

    #[inline]
    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self.variant(index)?)
    }

    #[inline]
    fn serialize_seq(self, count: Option<usize>) -> Result<Parts<'e, 'a>, Fault> {
        self.sequence(count)
    }

    #[inline]
    fn serialize_tuple(self, count: usize) -> Result<Parts<'e, 'a>, Fault> {
        Ok(self.parts(count))
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, count: usize) -> Result<Parts<'e, 'a>, Fault> {
        Ok(self.parts(count))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        count: usize,
    ) -> Result<Parts<'e, 'a>, Fault> {
        Ok(self.variant(index)?.parts(count))
    }

    #[inline]
    fn serialize_map(self, count: Option<usize>) -> Result<Parts<'e, 'a>, Fault> {
        self.sequence(count)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, count: usize) -> Result<Parts<'e, 'a>, Fault> {
        Ok(self.parts(count))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        count: usize,
    ) -> Result<Parts<'e, 'a>, Fault> {
        Ok(self.variant(index)?.parts(count))
    }
}

/// Implements the traits of parts without names.
macro_rules! unnamed {
    ($($of:ident: $method:ident),* $(,)?) => {$(
        impl ser::$of for Parts<'_, '_> {
            type Ok = ();
            type Error = Fault;

            #[inline]
            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Fault> {
                self.part(value)
            }

            #[inline]
            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        }
    )*};
}

unnamed! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

/// Implements the traits of parts with names. Names are not written, so no part may be left out.
macro_rules! named {
    ($($of:ident),* $(,)?) => {$(
        impl ser::$of for Parts<'_, '_> {
            type Ok = ();
            type Error = Fault;

            #[inline]
            fn serialize_field<T: ?Sized + Serialize>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Result<(), Fault> {
                self.part(value)
            }

            #[cold]
            fn skip_field(&mut self, name: &'static str) -> Result<(), Fault> {
                Err(Fault::new(format_args!("field `{name}` is left out: {LEFT_OUT}")))
            }

            #[inline]
            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        }
    )*};
}

named!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Fault> {
        key.serialize(&mut *self.encoder)
    }

    #[inline]
    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Fault> {
        self.part(value)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}
