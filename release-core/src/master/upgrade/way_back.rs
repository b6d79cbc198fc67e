//! The way back: a new version that cannot start after all becomes the old one again.

use super::Kept;
use super::state::Summary;
use crate::Error;
use crate::start_files;
use crate::streams;
use crate::sys::image::way_back;

/// What the version before has left to this one. As long as there is a way back it stays open as it was
/// left: what is used of it are duplicates.
pub(crate) struct Before {
    pub(crate) summary: &'static Summary,
    pub(crate) kept: Kept,
    /// Why the new version has come back, in the old one.
    pub(crate) returned: Option<String>,
}

impl Before {
    /// A version that is the master again has all that it needs, and goes on without the rest.
    pub(crate) fn never_fails(&self, done: Result<(), Error>) -> Result<(), Error> {
        match done {
            Err(error) if self.returned.is_some() => {
                tracing::error!(reason = error.report(), "going on without it");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// This version is the master for good.
pub(crate) fn stay() {
    start_files::started();
    way_back::close();
    streams::release();
}

/// Becomes the version before again, because of this error, with the signals that have arrived. Comes
/// back with the error when there is no version before, or it cannot be run.
///
/// Nothing that was taken over may have been closed or changed.
pub(crate) fn turn_back(error: Error, signals: &[i32]) -> Error {
    if way_back::is_set() {
        tracing::error!(reason = error.report(), "the new version cannot start and turns back");
        if let Some(failed) = way_back::walk(&error.report(), signals) {
            streams::release();
            tracing::error!(reason = %failed, "it cannot turn back");
        }
    }
    error
}
