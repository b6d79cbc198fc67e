//! The shape of a message type: the names and kinds of its parts. Two processes compare them.
//!
//! Postcard writes neither names nor kinds. Therefore a process with another version of a type
//! would decode wrong values. A shape is traced once, when the process starts.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

mod difference;
mod reader;
#[cfg(test)]
mod tests;
mod trace;
mod tracer;

pub(crate) use difference::{Difference, Rule};

/// The names and kinds of the parts of an encoded type.
///
/// Two connected processes compare the shapes of their message types. If only one side has a
/// variant or a field, the result is an error with a description, instead of a wrong value.
///
/// The codec determines the shape: see [`Codec::shape`](crate::ipc::Codec::shape).
///
/// # Examples
///
/// ```
/// use release_core::ipc::Shape;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Ask {
///     Touch,
///     Read { id: u32 },
/// }
///
/// let shape = Shape::of::<Ask>()?;
/// assert_eq!(shape.to_string(), "Ask { Touch, Read { id: u32 } }");
/// # Ok::<(), release_core::ipc::CodecError>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    root: ValueKind,
    /// Structs and enums, which may contain each other.
    types: Vec<NamedType>,
    /// The reason why a part is not known.
    #[serde(skip)]
    gap: Option<String>,
}

/// The kind of an encoded value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum ValueKind {
    /// Not known: equal to all kinds.
    #[default]
    Unknown,
    /// A value without parts.
    Plain(Cow<'static, str>),
    Option(Box<Self>),
    Sequence(Box<Self>),
    Map(Box<(Self, Self)>),
    Tuple(Vec<Self>),
    /// A number of equal parts.
    Array(usize, Box<Self>),
    /// The index of a type of the shape.
    Named(usize),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NamedType {
    name: Cow<'static, str>,
    body: TypeBody,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum TypeBody {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Field {
    /// A number in types without field names.
    name: Cow<'static, str>,
    kind: ValueKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Variant {
    name: Cow<'static, str>,
    /// `None` while they are not known.
    fields: Option<Vec<Field>>,
}

impl ValueKind {
    /// Returns the number of parts of a tuple or array.
    fn count(&self) -> Option<usize> {
        match self {
            Self::Tuple(parts) => Some(parts.len()),
            Self::Array(count, _) => Some(*count),
            _ => None,
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Self> {
        let (parts, repeated) = match self {
            Self::Tuple(parts) => (parts.as_slice(), None),
            Self::Array(count, part) => (&[][..], Some(std::iter::repeat_n(&**part, *count))),
            _ => (&[][..], None),
        };
        parts.iter().chain(repeated.into_iter().flatten())
    }

    /// Replaces tuples of equal parts by arrays.
    fn in_short(&mut self) {
        match self {
            Self::Unknown | Self::Plain(_) | Self::Named(_) => {}
            Self::Option(inner) | Self::Sequence(inner) | Self::Array(_, inner) => inner.in_short(),
            Self::Map(inner) => {
                inner.0.in_short();
                inner.1.in_short();
            }
            Self::Tuple(parts) => {
                parts.iter_mut().for_each(Self::in_short);
                if let [first, rest @ ..] = parts.as_mut_slice()
                    && !rest.is_empty()
                    && rest.iter().all(|part| part == first)
                {
                    *self = Self::Array(1 + rest.len(), Box::new(std::mem::take(first)));
                }
            }
        }
    }
}

impl Shape {
    /// Returns a shape that equals all others, so that nothing is compared.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Shape;
    ///
    /// assert_eq!(Shape::unknown().to_string(), "?");
    /// ```
    #[must_use]
    pub fn unknown() -> Self {
        Self { root: ValueKind::Unknown, types: Vec::new(), gap: None }
    }

    /// Returns a shape with a name. You must change the name together with the encoding: shapes
    /// with different names differ.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Shape;
    ///
    /// assert_eq!(Shape::named("orders, version 2").to_string(), "orders, version 2");
    /// ```
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { root: ValueKind::Plain(Cow::Owned(name.into())), ..Self::unknown() }
    }

    /// Returns the reason if a part of the type could not be traced. That part is not compared.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Shape;
    ///
    /// assert_eq!(Shape::of::<(u32, String)>()?.gap(), None);
    /// # Ok::<(), release_core::ipc::CodecError>(())
    /// ```
    #[must_use]
    pub fn gap(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    pub(crate) fn is_known(&self) -> bool {
        self.root != ValueKind::Unknown
    }

    /// Returns a short name of a kind.
    fn words(&self, kind: &ValueKind) -> String {
        match kind {
            ValueKind::Unknown => "?".to_owned(),
            ValueKind::Plain(name) => name.to_string(),
            ValueKind::Option(inner) => format!("Option<{}>", self.words(inner)),
            ValueKind::Sequence(inner) => format!("[{}]", self.words(inner)),
            ValueKind::Map(inner) => {
                format!("{{{}: {}}}", self.words(&inner.0), self.words(&inner.1))
            }
            ValueKind::Tuple(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| self.words(part)).collect();
                format!("({})", parts.join(", "))
            }
            ValueKind::Array(count, inner) => format!("[{}; {count}]", self.words(inner)),
            ValueKind::Named(index) => {
                self.types.get(*index).map_or_else(String::new, |named| named.name.to_string())
            }
        }
    }

    fn write_fields(&self, f: &mut fmt::Formatter<'_>, fields: &[Field]) -> fmt::Result {
        for (index, Field { name, kind }) in fields.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma} {name}: {}", self.words(kind))?;
        }
        Ok(())
    }

    fn write_type(&self, f: &mut fmt::Formatter<'_>, named: &NamedType) -> fmt::Result {
        write!(f, "{} {{", named.name)?;
        match &named.body {
            TypeBody::Struct(fields) => self.write_fields(f, fields)?,
            TypeBody::Enum(variants) => {
                for (index, Variant { name, fields }) in variants.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {name}")?;
                    match fields.as_deref() {
                        None => f.write_str(" ?")?,
                        Some([]) => {}
                        Some(fields) => {
                            f.write_str(" {")?;
                            self.write_fields(f, fields)?;
                            f.write_str(" }")?;
                        }
                    }
                }
            }
        }
        f.write_str(" }")
    }
}

/// Formats the type, and each struct and enum in it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !matches!(self.root, ValueKind::Named(0)) {
            f.write_str(&self.words(&self.root))?;
        }
        for (index, named) in self.types.iter().enumerate() {
            if index > 0 || !matches!(self.root, ValueKind::Named(0)) {
                f.write_str("; ")?;
            }
            self.write_type(f, named)?;
        }
        Ok(())
    }
}
