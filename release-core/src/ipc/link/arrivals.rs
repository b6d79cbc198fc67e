//! Descriptors that have come, and which frames they belong to.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;

/// Descriptors that have come with frames not yet dealt with: at most the first frame, of which the
/// rest may be missing, and one behind it.
#[derive(Debug, Default)]
pub(super) struct Arrivals(VecDeque<Arrival>);

#[derive(Debug)]
struct Arrival {
    /// How many frames are in front of theirs.
    frames: usize,
    /// How many came, also when they have been taken.
    count: usize,
    descriptors: Vec<OwnedFd>,
}

impl Arrivals {
    /// Keeps what came with a frame that has so many before it.
    pub(super) fn add(&mut self, frames: usize, descriptors: Vec<OwnedFd>) {
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
    pub(super) fn take(&mut self) -> Vec<OwnedFd> {
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

    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}
