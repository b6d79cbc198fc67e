//! The memory of one process for its metrics, which only grows.
//!
//! Its first word is the number of words in use. Then comes one entry for each metric: a word with its
//! lengths, its texts, the bounds of its buckets, and its values.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Described;
use super::read::{MetricKind, is_proper};
use crate::sys::shared_memory::SharedMemory;

/// Number of words of a region.
pub(crate) const WORDS: usize = 8192;

/// Why a metric has no values in a full region.
pub(super) const NO_ROOM: &str = "there is no room for more metrics";

/// The region of this process.
static OWN: OnceLock<Region> = OnceLock::new();

/// Name and labels of a metric.
type MetricIdentity = (String, Vec<(String, String)>);

/// Memory for metrics, and the metrics in it.
#[derive(Debug)]
pub(crate) struct Region {
    memory: RegionMemory,
    known: Mutex<HashMap<MetricIdentity, (MetricKind, usize, usize)>>,
}

#[derive(Debug)]
enum RegionMemory {
    /// Shared with the master.
    Shared(SharedMemory),
    /// Of this process alone.
    Private(Box<[AtomicU64]>),
}

/// Uses memory of the master for the metrics of this process. Returns whether that came in time: a metric
/// that was used before counts nowhere.
pub(crate) fn install(memory: SharedMemory) -> bool {
    OWN.set(Region::new(RegionMemory::Shared(memory))).is_ok()
}

/// Returns the region of this process, if a metric was used.
pub(crate) fn own() -> Option<&'static [AtomicU64]> {
    OWN.get().map(Region::words)
}

/// Returns the values of a metric in the region of this process.
pub(super) fn cells_of(about: &Described<'_>) -> &'static [AtomicU64] {
    find_cells(about).unwrap_or_else(|why| {
        let metric = about.name.escape_debug();
        log_warning!(%metric, why, "a metric counts nowhere");
        Box::leak(zeros(values_of(about)))
    })
}

/// Returns the values of a metric in the region of this process, or the reason why it has none.
pub(super) fn find_cells(about: &Described<'_>) -> Result<&'static [AtomicU64], &'static str> {
    OWN.get_or_init(Region::private).cells(about)
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Returns the number of values: a histogram has one for each bucket, and their sum.
fn values_of(about: &Described<'_>) -> usize {
    if about.kind == MetricKind::Histogram { about.bounds.len() + 2 } else { 1 }
}

impl Region {
    fn new(memory: RegionMemory) -> Self {
        Self { memory, known: Mutex::default() }
    }

    pub(super) fn private() -> Self {
        Self::new(RegionMemory::Private(zeros(WORDS)))
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            RegionMemory::Shared(memory) => memory.words(),
            RegionMemory::Private(words) => words,
        }
    }

    /// Returns the values of a metric, which is added if it is new.
    pub(super) fn cells(&self, about: &Described<'_>) -> Result<&[AtomicU64], &'static str> {
        let words = self.words();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = identity(about);
        if let Some((kind, begin, count)) = known.get(&identity) {
            let is_same = (*kind, *count) == (about.kind, values_of(about));
            return is_same
                .then(|| &words[*begin..begin + count])
                .ok_or("there is another kind of metric of this name");
        }
        if !is_proper(about.name, about.help, about.labels, about.bounds) {
            return Err("its name, labels, text or bounds are not as the documentation requires");
        }
        let used = known.values().map(|(_, begin, count)| begin + count).max().unwrap_or(1);
        let entry = entry(about);
        let (begin, count) = (used + entry.len(), values_of(about));
        let Some(place) = words.get(used..begin + count) else {
            return Err(NO_ROOM);
        };
        place.iter().zip(&entry).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        // A reader sees the entry as a whole.
        words[0].store((begin + count) as u64, Ordering::Release);
        known.insert(identity, (about.kind, begin, count));
        Ok(&words[begin..begin + count])
    }
}

fn identity(about: &Described<'_>) -> MetricIdentity {
    let labels = about.labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    (about.name.to_owned(), labels.collect())
}

/// Returns everything of an entry before its values.
fn entry(about: &Described<'_>) -> Vec<u64> {
    let labels: String =
        about.labels.iter().flat_map(|(name, value)| [*name, "\0", *value, "\0"]).collect();
    let texts = [about.name, about.help, &labels];
    let lengths = texts.map(|text| text.len() as u64);
    let head = [(about.kind as u64) << 56, (about.bounds.len() as u64) << 48];
    let head = head[0] | head[1] | lengths[0] << 32 | lengths[1] << 16 | lengths[2];
    let texts = texts.concat();
    let words = texts.as_bytes().chunks(size_of::<u64>()).map(|bytes| {
        let mut word = [0; size_of::<u64>()];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    });
    [head]
        .into_iter()
        .chain(words)
        .chain(about.bounds.iter().map(|bound| bound.to_bits()))
        .collect()
}
