//! Descriptors that have come, and which frames they belong to.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;

use crate::ipc::Descriptor;
use crate::sys::untrusted::Untrusted;

/// Descriptors that have come with frames not yet dealt with: at most the first frame, of which the
/// rest may be missing, and one behind it; more after a pause.
#[derive(Debug, Default)]
pub(super) struct Arrivals(VecDeque<Arrival>);

#[derive(Debug)]
struct Arrival {
    /// How many frames are in front of theirs.
    frames: usize,
    /// How many came, also when they have been taken.
    count: usize,
    descriptors: Vec<Untrusted>,
}

impl Arrivals {
    /// Keeps what came with a frame that has so many before it.
    pub(super) fn add(&mut self, frames: usize, descriptors: Vec<Untrusted>) {
        self.0.push_back(Arrival { frames, count: descriptors.len(), descriptors });
    }

    fn first(&mut self) -> Option<&mut Arrival> {
        self.0.front_mut().filter(|arrival| arrival.frames == 0)
    }

    /// How many came with the first frame.
    pub(super) fn count(&self) -> usize {
        self.0.front().filter(|arrival| arrival.frames == 0).map_or(0, |arrival| arrival.count)
    }

    /// What came with the first frame.
    pub(super) fn take(&mut self) -> Vec<Untrusted> {
        self.first().map(|arrival| mem::take(&mut arrival.descriptors)).unwrap_or_default()
    }

    /// The first frame has been dealt with.
    pub(super) fn consumed(&mut self) {
        if self.first().is_some() {
            self.0.pop_front();
        }
        for arrival in &mut self.0 {
            arrival.frames -= 1;
        }
    }

    /// Puts earlier ones back, which came with some of so many frames before all of these.
    pub(super) fn put_back(&mut self, frames: usize, Self(mut earlier): Self) {
        for arrival in &mut self.0 {
            arrival.frames += frames;
        }
        earlier.append(&mut self.0);
        self.0 = earlier;
    }

    /// Duplicates, with the number of frames before theirs.
    pub(super) fn copy(&self) -> io::Result<Vec<(usize, Vec<Descriptor>)>> {
        let copy =
            |arrival: &Arrival| Ok((arrival.frames, Descriptor::duplicates(&arrival.descriptors)?));
        self.0.iter().map(copy).collect()
    }

    /// What [`copy`](Self::copy) gave; false when it cannot be.
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
