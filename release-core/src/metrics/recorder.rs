//! `Recorder`: the metrics of the crate `metrics`, in the memory of this process.
//!
//! Its macros ask for the handle of a metric at each use. So the handles are kept by key, and a use is a
//! shared lock, a look-up and an atomic addition.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ::metrics::{
    CounterFn, GaugeFn, HistogramFn, Key, KeyName, Metadata, Recorder as Facade, SharedString, Unit,
};

use super::region::{NO_ROOM, find_cells};
use super::{Described, MetricKind, add_real, observe};
use crate::sys::beginning;

/// Maximum number of handles of each kind that are kept, and of descriptions. The memory of a process has
/// room for fewer metrics.
const MOST: usize = 1024;

/// Longest description, in bytes.
const LONGEST_HELP: usize = 256;

/// Bounds of a histogram that has no others: times of requests, in seconds.
const TIMES: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Records the counters, gauges and histograms of the [crate `metrics`](https://docs.rs/metrics), 0.24, as
/// metrics of this library. Your code and the crates below it that use its macros need no change.
///
/// Install it once at the beginning of `main`, so that it is there in the master and in each worker. The
/// group of the workers needs [`Workers::metrics`](crate::Workers::metrics). A metric that is used before
/// `main` of a worker has called [`Worker::run`](crate::Worker::run) counts nowhere, like a `static` of this
/// library.
///
/// * Letters that a name may not have, such as `.`, become `_`. The text adds `_total` to a counter, and a
///   counter that has this end already keeps it as it is.
/// * Labels may be chosen while the program runs. The process has room for several hundred metrics, each name
///   with its labels counted. Further ones count nowhere, and the log names the first of them.
/// * A histogram has the bounds of [`bounds`](Self::bounds), or those of times between 5 ms and 10 s.
/// * A description is shown if it comes before the first use of its metric. Units, levels and targets are
///   not shown.
/// * A gauge that is set to no finite number keeps its value.
///
/// A macro looks its metric up each time that it runs, without a system call. Keep the handle, such as a
/// `metrics::Counter`, where each nanosecond counts.
///
/// # Examples
///
/// ```
/// use release_core::metrics::Recorder;
///
/// let recorder = Recorder::new().bounds("upload_bytes", &[1e3, 1e6, 1e9]);
/// metrics::set_global_recorder(recorder)?;
///
/// metrics::describe_counter!("uploads", "Files that were received");
/// metrics::counter!("uploads", "kind" => "image").increment(1);
/// metrics::histogram!("upload_bytes").record(81_342.0);
/// # Ok::<(), metrics::SetRecorderError<Recorder>>(())
/// ```
#[derive(Default)]
pub struct Recorder {
    /// By the names of the library.
    bounds: HashMap<String, Vec<f64>>,
    help: Mutex<HashMap<String, String>>,
    counters: Handles<::metrics::Counter>,
    gauges: Handles<::metrics::Gauge>,
    histograms: Handles<::metrics::Histogram>,
    is_full: AtomicBool,
    /// Reasons that the log has.
    said: Mutex<HashSet<&'static str>>,
}

impl Recorder {
    /// Creates a recorder, for `metrics::set_global_recorder`.
    ///
    /// # Examples
    ///
    /// ```
    /// let recorder = release_core::metrics::Recorder::new();
    /// metrics::with_local_recorder(&recorder, || metrics::gauge!("queue_length").set(3.0));
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the upper bounds of the buckets of a histogram: at most 32 finite numbers in ascending order.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Recorder;
    ///
    /// let recorder = Recorder::new().bounds("db.query", &[0.001, 0.01, 0.1]);
    /// metrics::with_local_recorder(&recorder, || metrics::histogram!("db.query").record(0.02));
    /// ```
    #[must_use]
    pub fn bounds(mut self, name: &str, bounds: &[f64]) -> Self {
        self.bounds.insert(proper(name), bounds.to_vec());
        self
    }

    fn describe(&self, name: &str, help: &str) {
        let mut all = self.help.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MOST || all.contains_key(name) {
            let help: String =
                help.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
            all.insert(name.to_owned(), beginning(&help, LONGEST_HELP).to_owned());
        }
    }

    /// Returns the cells of a metric. It counts nowhere if there are none.
    fn cells(
        &self,
        kind: MetricKind,
        name: &str,
        key: &Key,
        bounds: &[f64],
    ) -> Option<&'static [AtomicU64]> {
        // Otherwise each look-up would search for room again.
        if self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        let mut labels: Vec<_> = key.labels().map(|it| (proper(it.key()), it.value())).collect();
        // Two places may name them in different orders.
        labels.sort_unstable();
        let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, *value)).collect();
        let help = self.help.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let mut about = Described::new(kind, name, help.as_deref().unwrap_or_default());
        (about.labels, about.bounds) = (&labels, bounds);
        let found = find_cells(&about);
        found.map_err(|why| self.refuse(key.name(), why)).ok()
    }

    /// Says each reason once: labels can make any number of metrics.
    fn refuse(&self, name: &str, why: &'static str) {
        if why == NO_ROOM {
            self.is_full.store(true, Ordering::Relaxed);
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(why) {
            let metric = beginning(name, LONGEST_HELP).escape_debug();
            log_warning!(%metric, why, "a metric counts nowhere, like all others of which this is true");
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Facade for Recorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&counter_name(name.as_str()), &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&proper(name.as_str()), &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&proper(name.as_str()), &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> ::metrics::Counter {
        self.counters.get(key, || {
            let cells = self.cells(MetricKind::Counter, &counter_name(key.name()), key, &[]);
            let make = |cells: &'static [_]| {
                ::metrics::Counter::from_arc(Arc::new(CounterCell(&cells[0])))
            };
            cells.map_or_else(::metrics::Counter::noop, make)
        })
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> ::metrics::Gauge {
        self.gauges.get(key, || {
            let cells = self.cells(MetricKind::RealGauge, &proper(key.name()), key, &[]);
            let make =
                |cells: &'static [_]| ::metrics::Gauge::from_arc(Arc::new(GaugeCell(&cells[0])));
            cells.map_or_else(::metrics::Gauge::noop, make)
        })
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> ::metrics::Histogram {
        self.histograms.get(key, || {
            let name = proper(key.name());
            let bounds = self.bounds.get(&name).map_or(&TIMES[..], Vec::as_slice);
            let cells = self.cells(MetricKind::Histogram, &name, key, bounds);
            let make = |cells| HistogramCells { cells, bounds: bounds.into() };
            let make = |cells| ::metrics::Histogram::from_arc(Arc::new(make(cells)));
            cells.map_or_else(::metrics::Histogram::noop, make)
        })
    }
}

/// Makes a name of the library from one of the facade.
fn proper(name: &str) -> String {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let name = name.chars().map(|letter| if is_letter(letter) { letter } else { '_' });
    let name: String = name.collect();
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// The same for a counter, whose end the text adds.
fn counter_name(name: &str) -> String {
    let mut name = proper(name);
    name.truncate(name.strip_suffix("_total").map_or(name.len(), str::len));
    name
}

/// The handles of one kind.
struct Handles<T>(RwLock<HashMap<Key, T>>);

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T: Clone> Handles<T> {
    fn get(&self, key: &Key, make: impl FnOnce() -> T) -> T {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (found, has_room) = (known.get(key).cloned(), known.len() < MOST);
        drop(known);
        found.unwrap_or_else(|| {
            let handle = make();
            if has_room {
                let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
                known.insert(key.to_retained(), handle.clone());
            }
            handle
        })
    }
}

struct CounterCell(&'static AtomicU64);

impl CounterFn for CounterCell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

struct GaugeCell(&'static AtomicU64);

impl GaugeFn for GaugeCell {
    fn increment(&self, value: f64) {
        if value.is_finite() {
            add_real(self.0, value);
        }
    }

    fn decrement(&self, value: f64) {
        self.increment(-value);
    }

    fn set(&self, value: f64) {
        if value.is_finite() {
            self.0.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}

struct HistogramCells {
    cells: &'static [AtomicU64],
    bounds: Box<[f64]>,
}

impl HistogramFn for HistogramCells {
    fn record(&self, value: f64) {
        observe(self.cells, &self.bounds, value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        observe(self.cells, &self.bounds, value, u32::try_from(count).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{
        counter, describe_counter, describe_gauge, gauge, histogram, with_local_recorder,
    };

    use super::super::{Exposition, Totals, own};
    use super::*;

    /// The lines about this metric.
    fn text(name: &str) -> Vec<String> {
        let mut totals = Totals::default();
        totals.add(None, own().expect("a region"));
        let mut text = Exposition::default();
        text.add_totals(&totals);
        let is_its = |line: &&str| line.split(' ').any(|word| word.starts_with(name));
        text.to_string().lines().filter(is_its).map(str::to_owned).collect()
    }

    #[test]
    fn all_kinds_are_metrics_of_the_library() {
        let recorder = Recorder::new().bounds("facade.size", &[1.0, 10.0]);
        with_local_recorder(&recorder, || {
            describe_counter!("facade.hits_total", "Hits\nof \"all\"");
            describe_gauge!("facade_load", "Load");
            for place in 0..3_u8 {
                let place = ["a", "b", "a"][usize::from(place)];
                counter!("facade.hits_total", "place" => place, "x-y" => "1").increment(2);
            }
            counter!("facade.hits_total", "x-y" => "1", "place" => "b").absolute(7);
            gauge!("facade_load").set(0.5);
            gauge!("facade_load").increment(1.25);
            gauge!("facade_load").decrement(f64::NAN);
            histogram!("facade.size").record(10.0);
            histogram!("facade.size").record_many(11.5, 2);
            histogram!("facade_time").record(0.005);
        });
        let expected = [
            "# TYPE facade_hits counter",
            "# HELP facade_hits Hits of \\\"all\\\"",
            "facade_hits_total{place=\"a\",x_y=\"1\"} 4",
            "facade_hits_total{place=\"b\",x_y=\"1\"} 7",
        ];
        assert_eq!(text("facade_hits"), expected);
        let expected = ["# TYPE facade_load gauge", "# HELP facade_load Load", "facade_load 1.75"];
        assert_eq!(text("facade_load"), expected);
        let expected = [
            "# TYPE facade_size histogram",
            "facade_size_bucket{le=\"1.0\"} 0",
            "facade_size_bucket{le=\"10.0\"} 1",
            "facade_size_bucket{le=\"+Inf\"} 3",
            "facade_size_sum 33.0",
            "facade_size_count 3",
        ];
        assert_eq!(text("facade_size"), expected);
        assert!(text("facade_time").contains(&"facade_time_bucket{le=\"0.005\"} 1".to_owned()));
    }

    #[test]
    fn a_metric_that_cannot_be_counts_nowhere_and_is_no_failure() {
        let recorder = Recorder::new();
        with_local_recorder(&recorder, || {
            for number in 0..2 * MOST {
                counter!("release_mine").increment(1);
                counter!("facade_long", "of" => "x".repeat(129 + number)).increment(1);
                counter!("facade_group", "group" => "mine").increment(1);
                gauge!("").set(1.0);
            }
        });
        assert_eq!(recorder.said.lock().unwrap().len(), 1);
        assert_eq!(recorder.counters.0.read().unwrap().len(), MOST);
        assert!(!recorder.is_full.load(Ordering::Relaxed));
        for name in ["release_mine", "facade_long", "facade_group"] {
            assert_eq!(text(name), [""; 0]);
        }
    }
}
