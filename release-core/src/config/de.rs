//! Conversion of configuration values into the user's types, using serde.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer, StrDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::Value;
use super::entry::{Entry, Values};
use super::error::{Errors, Problems};
use super::printable::shortened;
use super::source::{Place, SourceText, Span};

/// The reason why a value does not fit, and its position once known.
#[derive(Debug)]
pub(super) struct Unfit {
    message: String,
    key: Option<String>,
    span: Option<Span>,
}

impl Unfit {
    /// Returns the error at the value's position in the file.
    #[cold]
    pub(super) fn placed(self, source: &SourceText) -> Errors {
        let mut problems = Problems::new(source);
        // It repeats text from the file.
        let mut message = shortened(&self.message, 1000);
        if let Some(key) = &self.key {
            message = format!("`{key}`: {message}");
        }
        match &self.span {
            Some(span) => problems.at(span, message),
            None => problems.general(message),
        };
        problems.errors()
    }

    fn within(mut self, node: &Node<'_>) -> Self {
        if node.is_secret && node.value.is_some() {
            "the value does not fit the type of the program, and is not shown"
                .clone_into(&mut self.message);
        }
        self.key.get_or_insert_with(|| node.key.to_owned());
        self.span = self.span.or_else(|| node.place.map(|place| place.span.clone()));
        self
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), key: None, span: None }
    }
}

/// A value, its key, and its position if it is from the file.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    key: &'a str,
    value: Option<&'a Value>,
    place: Option<&'a Place>,
    is_secret: bool,
}

impl<'a> Node<'a> {
    pub(super) fn of(entry: &'a Entry) -> Self {
        Self {
            key: &entry.key,
            value: entry.value.as_ref(),
            place: entry.place.as_ref(),
            is_secret: entry.is_secret,
        }
    }

    /// Deserializes the value. Errors are reported at this position, even if the user's type
    /// detects them after it has received a plain value.
    pub(super) fn seeded<S: DeserializeSeed<'a>>(self, seed: S) -> Result<S::Value, Unfit> {
        seed.deserialize(self).map_err(|error| error.within(&self))
    }

    fn items(self, values: &'a [Value]) -> impl Iterator<Item = Self> {
        values.iter().enumerate().map(move |(index, value)| {
            let place = self.place.and_then(|place| place.items.get(index));
            Self { value: Some(value), place, ..self }
        })
    }

    fn visit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.value {
            None => Err(de::Error::custom("it is not set, and has no default")),
            Some(Value::Bool(value)) => visitor.visit_bool(*value),
            Some(Value::Int(value)) => visitor.visit_i64(*value),
            Some(Value::Float(value)) => visitor.visit_f64(*value),
            Some(Value::String(text) | Value::Keyword(text)) => visitor.visit_borrowed_str(text),
            Some(Value::Bytes(bytes)) => visitor.visit_borrowed_bytes(bytes),
            Some(Value::Regexp(regexp)) => visitor.visit_borrowed_str(regexp.as_str()),
            Some(Value::Size(bytes)) => visitor.visit_u64(*bytes),
            Some(Value::Mode(bits)) => visitor.visit_u32(*bits),
            Some(Value::Address(address)) => visitor.visit_string(address.to_string()),
            Some(value @ Value::Duration(_)) => visitor.visit_string(value.to_string()),
            Some(Value::List(values)) => visitor.visit_seq(Items(self.items(values))),
        }
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.value {
            Some(_) => visitor.visit_some(self),
            None => visitor.visit_none(),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    /// The standard library's `Duration` requires its two fields.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        match self.value {
            Some(Value::Duration(duration)) if name == "Duration" => {
                let fields =
                    [("secs", duration.as_secs()), ("nanos", duration.subsec_nanos().into())];
                MapDeserializer::new(fields.into_iter()).deserialize_any(visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        match self.value {
            Some(Value::Keyword(word) | Value::String(word)) => {
                let word: StrDeserializer<'_, Unfit> = word.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            // The visitor describes the expected type.
            _ => self.visit(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The elements of a list.
struct Items<I>(I);

impl<'de, I: Iterator<Item = Node<'de>>> SeqAccess<'de> for Items<I> {
    type Error = Unfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unfit> {
        self.0.next().map(|node| node.seeded(seed)).transpose()
    }
}

/// The keys of a section that are set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a>(pub(super) &'a [Entry]);

impl<'a> Keys<'a> {
    fn fields(self) -> impl Iterator<Item = (&'a str, FieldSource<'a>)> {
        let set = self.0.iter().filter(|entry| entry.value.is_some());
        set.map(|entry| (entry.key.as_str(), FieldSource::Value(Node::of(entry))))
    }
}

impl<'de> Deserializer<'de> for Keys<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_map(FieldSources::of(self.fields().collect()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The sections of one name, by their labels.
struct Labelled<'a>(Vec<(&'a str, FieldSource<'a>)>);

impl<'de> Deserializer<'de> for Labelled<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_map(FieldSources::of(self.0))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The whole configuration: the global keys and the sections are its fields.
#[derive(Clone, Copy, Debug)]
struct Whole<'a>(&'a [Values]);

impl<'de> Deserializer<'de> for Whole<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let mut fields = Vec::new();
        for section in self.0 {
            let keys = Keys(&section.entries);
            match &section.name {
                None => fields.extend(keys.fields()),
                Some(name) if section.is_labelled && section.label.is_none() => {
                    let same = self.0.iter().filter(|other| other.name.as_ref() == Some(name));
                    let labelled = same.filter_map(|section| {
                        Some((
                            section.label.as_deref()?,
                            FieldSource::Section(Keys(&section.entries)),
                        ))
                    });
                    fields
                        .push((name.as_str(), FieldSource::Labelled(Labelled(labelled.collect()))));
                }
                Some(_) if section.is_labelled => {}
                Some(name) => fields.push((name.as_str(), FieldSource::Section(keys))),
            }
        }
        visitor.visit_map(FieldSources::of(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Deserializes a whole configuration. Returns the error at its position in the file.
pub(super) fn whole<'a, T: Deserialize<'a>>(
    sections: &'a [Values],
    source: &SourceText,
) -> Result<T, Errors> {
    T::deserialize(Whole(sections)).map_err(|error| error.placed(source))
}

/// The source of a field of the user's struct.
enum FieldSource<'a> {
    Value(Node<'a>),
    Section(Keys<'a>),
    Labelled(Labelled<'a>),
}

struct FieldSources<'a> {
    rest: std::vec::IntoIter<(&'a str, FieldSource<'a>)>,
    value: Option<FieldSource<'a>>,
}

impl<'a> FieldSources<'a> {
    fn of(fields: Vec<(&'a str, FieldSource<'a>)>) -> Self {
        Self { rest: fields.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for FieldSources<'de> {
    type Error = Unfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Unfit> {
        let Some((name, field)) = self.rest.next() else { return Ok(None) };
        self.value = Some(field);
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unfit> {
        match self.value.take() {
            Some(FieldSource::Value(node)) => node.seeded(seed),
            Some(FieldSource::Section(keys)) => seed.deserialize(keys),
            Some(FieldSource::Labelled(sections)) => seed.deserialize(sections),
            None => Err(de::Error::custom("a value is asked for before its key")),
        }
    }
}
