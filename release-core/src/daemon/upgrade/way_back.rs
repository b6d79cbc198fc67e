//! The way back: a new version that cannot start after all becomes the old one again.

use std::os::fd::{AsRawFd, OwnedFd};

use super::state::Summary;
use super::{Blocked, Here, Kept, Origin, RETURN, VARIABLE};
use crate::Error;
use crate::sys::image::seal;

/// What the version before has left to this one.
pub(in crate::daemon) struct Before {
    pub(in crate::daemon) summary: &'static Summary,
    pub(in crate::daemon) kept: Kept,
    /// None in the old version, when the new one has come back by it.
    pub(super) way_back: Option<WayBack>,
    /// Why the new version has come back.
    pub(in crate::daemon) returned: Option<String>,
}

/// Everything as it was left, until this version is the master for good. What is used of it are
/// duplicates.
#[derive(Debug)]
pub(super) struct WayBack {
    pub(super) state: OwnedFd,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) image: OwnedFd,
}

impl Before {
    /// This version is the master for good.
    pub(in crate::daemon) fn stay(&mut self) {
        self.way_back = None;
    }
}

/// Becomes the version before again, because of this error, with the signals that have arrived. Comes
/// back with the error when there is no version before, or it cannot be run.
///
/// Nothing that was taken over may have been closed or changed.
pub(in crate::daemon) fn turn_back(
    before: Option<&mut Before>,
    origin: &Origin,
    error: Error,
    signals: &[i32],
) -> Error {
    if let Some(way_back) = before.and_then(|before| before.way_back.take()) {
        tracing::error!(reason = error.report(), "the new version cannot start and turns back");
        let Err(failed) = way_back.walk(origin, &error, signals);
        tracing::error!(reason = failed.report(), "it cannot turn back");
    }
    error
}

impl WayBack {
    fn walk(
        self,
        origin: &Origin,
        why: &Error,
        signals: &[i32],
    ) -> Result<std::convert::Infallible, Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        let _blocked = Blocked::all()?;
        let word = postcard::to_stdvec(&(why.report(), signals)).unwrap_or_default();
        let word = seal(&word).map_err(failed("cannot write the reason down"))?;
        let value = format!("{RETURN}{}:{}", self.state.as_raw_fd(), word.as_raw_fd());
        let image = origin.image(VARIABLE, value)?;
        let mut descriptors = self.descriptors;
        descriptors.extend([self.state, word]);
        let _here = Here::leave_for(&origin.place()?.directory)?;
        let error = image.become_it(Some(&self.image), &descriptors);
        Err(Error::system("cannot run the version before", error))
    }
}
