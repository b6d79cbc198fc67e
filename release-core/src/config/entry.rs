//! The content of a configuration that fulfils its specification.

use std::fmt;

use super::Value;
use super::source::Place;

/// The values of a section.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// `None` for the global keys.
    pub(super) name: Option<String>,
    /// Whether sections of this name have a label. The first of them is empty, without a label: there
    /// may be no other.
    pub(super) is_labelled: bool,
    pub(super) label: Option<String>,
    pub(super) entries: Vec<Entry>,
}

impl Values {
    /// Formats the name as between the brackets of a header.
    pub(super) fn header(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(match &self.label {
            Some(label) => format!("{name} {}", Value::from(label.as_str())),
            None => name.clone(),
        })
    }
}

/// A key of the specification with its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// `None` for an optional key that is not set.
    pub(super) value: Option<Value>,
    /// `None` for a default.
    pub(super) place: Option<Place>,
    /// Whether the value is never shown.
    pub(super) is_secret: bool,
}

impl Entry {
    /// Returns the value if it may be shown.
    pub(super) fn shown(&self) -> Option<&Value> {
        self.value.as_ref().filter(|_| !self.is_secret)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Entry");
        text.field("key", &self.key);
        match self.is_secret {
            true => text.field("value", &format_args!("***")),
            false => text.field("value", &self.value),
        };
        text.field("place", &self.place).finish()
    }
}
