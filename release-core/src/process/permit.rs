//! Which requests a master takes from a worker, and when.

/// Whether a worker may ask this now: see [`Workers::answer_permitted`].
///
/// [`Workers::answer_permitted`]: crate::Workers::answer_permitted
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Permit {
    /// It may.
    Granted,
    /// It may not: the worker is killed, and these words are in the log.
    Denied(&'static str),
}

impl Permit {
    /// Granted if this is so, and denied with these words if not.
    #[must_use]
    pub fn only_if(so: bool, otherwise: &'static str) -> Self {
        if so { Self::Granted } else { Self::Denied(otherwise) }
    }
}
