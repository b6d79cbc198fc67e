//! The deserializer of tracing: it returns samples and records their kinds.

use std::borrow::Cow;

use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Visitor};

use super::tracer::{TraceError, Tracer, fields_of};
use super::{TypeBody, ValueKind, Variant};

/// Samples for types that accept only some texts, such as numbers, times and addresses.
const TEXTS: &[&str] = &[
    "a",
    "",
    "1",
    "00000000-0000-0000-0000-000000000000",
    "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:00+00:00",
    "1970-01-01T00:00:00",
    "1970-01-01",
    "00:00:00",
    "127.0.0.1",
    "::1",
    "127.0.0.1:1",
    "127.0.0.0/8",
    "00:00:00:00:00:00",
    "http://localhost/",
    "/",
    "localhost",
    "a@localhost",
    "1.0.0",
    "1.0",
    "0.5",
    "1s",
    "UTC",
    "en",
    "text/plain",
    "true",
    "{}",
];

const BYTES: &[u8] = &[1; 64];

const LONG_BYTES: &[&[u8]] = &[
    BYTES.split_at(1).0,
    &[],
    BYTES.split_at(4).0,
    BYTES.split_at(6).0,
    BYTES.split_at(8).0,
    BYTES.split_at(12).0,
    BYTES.split_at(16).0,
    BYTES.split_at(20).0,
    BYTES.split_at(24).0,
    BYTES.split_at(32).0,
    BYTES.split_at(48).0,
    BYTES,
];

pub(super) struct SampleReader<'t> {
    tracer: &'t mut Tracer,
    kind: &'t mut ValueKind,
}

impl<'t> SampleReader<'t> {
    pub(super) fn new(tracer: &'t mut Tracer, kind: &'t mut ValueKind) -> Self {
        Self { tracer, kind }
    }

    fn plain<T: Copy + serde::Serialize>(
        self,
        name: &'static str,
        zero: T,
        candidates: &[T],
    ) -> Result<T, TraceError> {
        self.tracer.part()?;
        *self.kind = ValueKind::Plain(Cow::Borrowed(name));
        Ok(self.tracer.sample(zero, candidates))
    }

    /// Defines a type by its name and its visitor, because others may have the same name.
    fn define<V>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        body: impl FnOnce() -> TypeBody,
    ) -> Result<(&'t mut Tracer, usize), TraceError> {
        self.tracer.part()?;
        let index = self.tracer.define((std::any::type_name::<V>(), name, names), body);
        *self.kind = ValueKind::Named(index);
        Ok((self.tracer, index))
    }

    /// Returns the number of elements of a sequence: one or none.
    fn count(&mut self) -> Result<usize, TraceError> {
        self.tracer.part()?;
        let count = usize::from(self.tracer.is_there());
        self.tracer.give(&count);
        Ok(count)
    }
}

/// The parts of a type without a name.
struct SampleParts<'t> {
    tracer: &'t mut Tracer,
    kinds: &'t mut [ValueKind],
    next: usize,
}

impl SampleParts<'_> {
    fn part<'de, S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TraceError> {
        let Some(kind) = self.kinds.get_mut(self.next) else { return Ok(None) };
        self.next += 1;
        self.tracer.part()?;
        seed.deserialize(SampleReader::new(self.tracer, kind)).map(Some)
    }
}

impl<'de> de::SeqAccess<'de> for SampleParts<'_> {
    type Error = TraceError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TraceError> {
        self.part(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.kinds.len() - self.next)
    }
}

/// Reads a key and a value, or nothing.
impl<'de> de::MapAccess<'de> for SampleParts<'_> {
    type Error = TraceError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TraceError> {
        self.part(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, TraceError> {
        self.part(seed)?.ok_or(TraceError::Never)
    }

    fn size_hint(&self) -> Option<usize> {
        Some((self.kinds.len() - self.next) / 2)
    }
}

/// The fields of a type.
struct SampleFields<'t> {
    tracer: &'t mut Tracer,
    index: usize,
    variant: usize,
    count: usize,
    next: usize,
}

impl<'de> de::SeqAccess<'de> for SampleFields<'_> {
    type Error = TraceError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TraceError> {
        if self.next == self.count {
            return Ok(None);
        }
        let place = (self.index, self.variant, self.next);
        self.next += 1;
        self.tracer.part()?;
        let read = |tracer: &mut Tracer, kind: &mut ValueKind| {
            seed.deserialize(SampleReader::new(tracer, kind))
        };
        self.tracer.field(place, read).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.count - self.next)
    }
}

fn numbered(count: usize) -> Vec<Cow<'static, str>> {
    (0..count).map(|number| Cow::Owned(number.to_string())).collect()
}

fn named(names: &[&'static str]) -> Vec<Cow<'static, str>> {
    names.iter().map(|name| Cow::Borrowed(*name)).collect()
}

macro_rules! plain {
    ($($method:ident: $visit:ident($kind:ty), $zero:expr, $candidates:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
            let name = stringify!($kind);
            visitor.$visit(self.plain::<$kind>(name, $zero, $candidates)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for SampleReader<'_> {
    type Error = TraceError;

    plain! {
        deserialize_bool: visit_bool(bool), false, &[true, false];
        deserialize_i8: visit_i8(i8), 0, &[1, 0, 2, 10, 100];
        deserialize_i16: visit_i16(i16), 0, &[1, 0, 2, 10, 100, 1000];
        deserialize_i32: visit_i32(i32), 0, &[1, 0, 2, 10, 100, 1000, 10_000];
        deserialize_i64: visit_i64(i64), 0, &[1, 0, 2, 10, 100, 1000, 10_000, 1_000_000];
        deserialize_i128: visit_i128(i128), 0, &[1, 0, 2, 10, 100, 1000, 10_000, 1_000_000];
        deserialize_u8: visit_u8(u8), 0, &[1, 0, 2, 10, 65, 100, 200];
        deserialize_u16: visit_u16(u16), 0, &[1, 0, 2, 10, 100, 1000, 10_000];
        deserialize_u32: visit_u32(u32), 0, &[1, 0, 2, 10, 100, 1000, 10_000, 1_000_000];
        deserialize_u64: visit_u64(u64), 0, &[1, 0, 2, 10, 100, 1000, 10_000, 1_000_000];
        deserialize_u128: visit_u128(u128), 0, &[1, 0, 2, 10, 100, 1000, 10_000, 1_000_000];
        deserialize_f32: visit_f32(f32), 0.0, &[1.0, 0.0, 0.5, 10.0, 100.0];
        deserialize_f64: visit_f64(f64), 0.0, &[1.0, 0.0, 0.5, 10.0, 100.0];
        deserialize_char: visit_char(char), '\0', &['a', '1', 'A', '/'];
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        Err(TraceError::NotCarried)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        Err(TraceError::NotCarried)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        Err(TraceError::NotCarried)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        visitor.visit_borrowed_str(self.plain("str", "", TEXTS)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        visitor.visit_borrowed_bytes(self.plain::<&[u8]>("bytes", &[], LONG_BYTES)?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        let SampleReader { tracer, kind } = self;
        tracer.part()?;
        let is_there = tracer.is_there();
        tracer.give(&is_there);
        let mut inner = ValueKind::Unknown;
        let outcome = if is_there {
            visitor.visit_some(SampleReader::new(tracer, &mut inner))
        } else {
            visitor.visit_none()
        };
        *kind = ValueKind::Option(Box::new(inner));
        outcome
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        *self.kind = ValueKind::Plain(Cow::Borrowed("()"));
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.define::<V>(name, &[], || TypeBody::Struct(Vec::new()))?;
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = || TypeBody::Struct(fields_of(numbered(1)));
        let (tracer, index) = self.define::<V>(name, &[], body)?;
        let read = |tracer: &mut Tracer, kind: &mut ValueKind| {
            visitor.visit_newtype_struct(SampleReader::new(tracer, kind))
        };
        tracer.inside(index, 0, |tracer| tracer.field((index, 0, 0), read))
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        let count = self.count()?;
        let mut kinds = [ValueKind::Unknown];
        let parts = SampleParts { tracer: self.tracer, kinds: &mut kinds[..count], next: 0 };
        let outcome = visitor.visit_seq(parts);
        let [inner] = kinds;
        *self.kind = ValueKind::Sequence(Box::new(inner));
        outcome
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.tracer.part()?;
        let mut kinds = vec![ValueKind::Unknown; count];
        let outcome =
            visitor.visit_seq(SampleParts { tracer: self.tracer, kinds: &mut kinds, next: 0 });
        *self.kind = ValueKind::Tuple(kinds);
        outcome
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = || TypeBody::Struct(fields_of(numbered(count)));
        let (tracer, index) = self.define::<V>(name, &[], body)?;
        tracer.inside(index, 0, |tracer| {
            visitor.visit_seq(SampleFields { tracer, index, variant: 0, count, next: 0 })
        })
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        let count = self.count()?;
        let mut kinds = [ValueKind::Unknown, ValueKind::Unknown];
        let parts = SampleParts { tracer: self.tracer, kinds: &mut kinds[..2 * count], next: 0 };
        let outcome = visitor.visit_map(parts);
        let [key, value] = kinds;
        *self.kind = ValueKind::Map(Box::new((key, value)));
        outcome
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = || TypeBody::Struct(fields_of(named(names)));
        let (tracer, index) = self.define::<V>(name, names, body)?;
        tracer.inside(index, 0, |tracer| {
            visitor.visit_seq(SampleFields {
                tracer,
                index,
                variant: 0,
                count: names.len(),
                next: 0,
            })
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let variant = |name| Variant { name, fields: None };
        let body = || TypeBody::Enum(named(names).into_iter().map(variant).collect());
        let (tracer, index) = self.define::<V>(name, names, body)?;
        let variant = tracer.choose(index, names.len())?;
        tracer
            .inside(index, variant, |tracer| visitor.visit_enum(Chosen { tracer, index, variant }))
    }
}

/// The variant that is being read.
struct Chosen<'t> {
    tracer: &'t mut Tracer,
    index: usize,
    variant: usize,
}

impl Chosen<'_> {
    fn fields<'de, V: Visitor<'de>>(
        self,
        names: Vec<Cow<'static, str>>,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let (Self { tracer, index, variant }, count) = (self, names.len());
        tracer.set_fields(index, variant, names);
        visitor.visit_seq(SampleFields { tracer, index, variant, count, next: 0 })
    }
}

impl<'de> de::EnumAccess<'de> for Chosen<'_> {
    type Error = TraceError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), TraceError> {
        let number = u32::try_from(self.variant).map_err(|_| TraceError::TooLarge)?;
        self.tracer.give(&number);
        Ok((seed.deserialize(U32Deserializer::new(number))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Chosen<'_> {
    type Error = TraceError;

    fn unit_variant(self) -> Result<(), TraceError> {
        self.tracer.set_fields(self.index, self.variant, Vec::new());
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, TraceError> {
        self.tracer.set_fields(self.index, self.variant, numbered(1));
        let read = |tracer: &mut Tracer, kind: &mut ValueKind| {
            seed.deserialize(SampleReader::new(tracer, kind))
        };
        self.tracer.field((self.index, self.variant, 0), read)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.fields(numbered(count), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.fields(named(names), visitor)
    }
}
