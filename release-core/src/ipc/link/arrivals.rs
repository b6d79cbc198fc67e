//! Received descriptors, and the frames to which they belong.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use crate::ipc::Descriptor;
use crate::sys::untrusted::Untrusted;

/// Received descriptors of frames that are not handled yet. Outside a pause, these are at most the
/// first frame, which may be incomplete, and one after it.
#[derive(Debug, Default)]
pub(super) struct Arrivals(VecDeque<Arrival>);

#[derive(Debug)]
struct Arrival {
    /// Number of frames before their frame.
    frames: usize,
    /// Number of received descriptors, including those already taken. 0 if this process had no free ones.
    count: usize,
    descriptors: Vec<Untrusted>,
}

impl Arrivals {
    /// Adds the descriptors of a frame that is preceded by `frames` others.
    pub(super) fn add(&mut self, frames: usize, descriptors: Vec<Untrusted>) {
        self.0.push_back(Arrival { frames, count: descriptors.len(), descriptors });
    }

    fn first(&mut self) -> Option<&mut Arrival> {
        self.0.front_mut().filter(|arrival| arrival.frames == 0)
    }

    /// Returns the number of descriptors of the first frame.
    pub(super) fn count(&self) -> usize {
        self.0.front().filter(|arrival| arrival.frames == 0).map_or(0, |arrival| arrival.count)
    }

    /// Returns whether the first frame has lost its descriptors: this process had no free ones.
    pub(super) fn is_lost(&self) -> bool {
        self.0.front().is_some_and(|arrival| arrival.frames == 0 && arrival.count == 0)
    }

    /// Takes the descriptors of the first frame.
    pub(super) fn take(&mut self) -> Vec<Untrusted> {
        self.first().map(|arrival| mem::take(&mut arrival.descriptors)).unwrap_or_default()
    }

    /// Removes the first frame.
    #[inline]
    pub(super) fn consumed(&mut self) {
        // Almost always, no descriptors have arrived.
        if !self.0.is_empty() {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        if self.first().is_some() {
            self.0.pop_front();
        }
        for arrival in &mut self.0 {
            arrival.frames -= 1;
        }
    }

    /// Puts back the descriptors of `frames` earlier frames.
    pub(super) fn put_back(&mut self, frames: usize, Self(mut earlier): Self) {
        for arrival in &mut self.0 {
            arrival.frames += frames;
        }
        earlier.append(&mut self.0);
        self.0 = earlier;
    }

    /// Duplicates the descriptors, with the number of frames before their frame.
    pub(super) fn copy(&self) -> io::Result<Vec<(usize, Vec<Descriptor>)>> {
        let copy =
            |arrival: &Arrival| Ok((arrival.frames, Descriptor::duplicates(&arrival.descriptors)?));
        self.0.iter().map(copy).collect()
    }

    /// Restores a [`copy`](Self::copy). Returns false if it is invalid.
    pub(super) fn restore(&mut self, copies: Vec<(usize, Vec<Descriptor>)>) -> bool {
        let is_whole = copies.is_sorted_by(|(first, _), (second, _)| first < second);
        for (frames, descriptors) in copies {
            self.add(
                frames,
                descriptors.into_iter().map(|one| OwnedFd::from(one).into()).collect(),
            );
        }
        is_whole
    }

    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}
