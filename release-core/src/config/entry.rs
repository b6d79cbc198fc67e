//! The content of a configuration that fulfils its specification.

use super::Value;
use super::source::Place;

/// The values of a section.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// `None` for the global keys.
    pub(super) name: Option<String>,
    pub(super) entries: Vec<Entry>,
}

/// A key of the specification with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// `None` for an optional key that is not set.
    pub(super) value: Option<Value>,
    /// `None` for a default.
    pub(super) place: Option<Place>,
}
