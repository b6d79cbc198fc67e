//! Which requests a master takes from a worker, and when.

/// Whether a worker may ask this now: see [`Workers::answer_permitted`].
///
/// [`Workers::answer_permitted`]: crate::Workers::answer_permitted
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not: the worker is killed, and these words are in the log.
    Deny(&'static str),
}

impl Decision {
    /// Allows the request if `so` holds, and denies it with the words of `otherwise` if not.
    #[must_use]
    pub fn only_if(so: bool, otherwise: &'static str) -> Self {
        if so { Self::Allow } else { Self::Deny(otherwise) }
    }
}
