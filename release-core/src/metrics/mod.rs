//! Metrics of workers and the master: counters, gauges and histograms, summed up over all processes.
//!
//! A metric is a `static`. An update is one atomic addition in memory that the process shares with the
//! master: no system call, no lock, no message. The master reads it when it is asked:
//! [`MasterHandle::metrics`](crate::MasterHandle::metrics), or `release ctl metrics`, returns the text
//! format of OpenMetrics, with the metrics of the pool itself.
//!
//! Workers have such memory if their group asks for it with [`Workers::metrics`](crate::Workers::metrics).
//!
//! * Counters and histograms are monotonic: the counts of a process that has ended, or been replaced, stay,
//!   also through upgrades of the master. Gauges are the sum over the running processes.
//! * The metrics of workers have the label `group`. A worker cannot change the numbers of another group,
//!   and nothing that it writes into its memory harms the master.
//! * A name has one kind in the whole service. If groups differ, the text has the metrics of the master, or
//!   else of the first of these groups by name, and leaves those of another kind out.
//! * A process has room for several hundred metrics ([`CAPACITY`] bytes), and a group for 1,024, each name
//!   with its labels counted. The log names a metric without room; it counts nowhere.
//!
//! # Examples
//!
//! ```
//! use release_core::metrics::{Counter, Gauge, Histogram};
//!
//! static HITS: Counter = Counter::new("cache_reads", "Reads of the cache").labels(&[("found", "yes")]);
//! static MISSES: Counter = Counter::new("cache_reads", "Reads of the cache").labels(&[("found", "no")]);
//! static OPEN: Gauge = Gauge::new("sessions", "Sessions that are open");
//! static TIME: Histogram = Histogram::new("answer_seconds", "Time to an answer", &[0.01, 0.1, 1.0]);
//!
//! OPEN.add(1);
//! HITS.increment();
//! MISSES.add(2);
//! TIME.observe(0.05);
//! OPEN.add(-1);
//! assert_eq!((HITS.value(), MISSES.value(), OPEN.value(), TIME.count()), (1, 2, 0, 1));
//! ```

mod read;
#[cfg(feature = "metrics-recorder")]
mod recorder;
mod region;
mod text;
mod totals;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use read::{MetricKind, gauge_in};
#[cfg(feature = "metrics-recorder")]
pub use recorder::Recorder;
pub(crate) use region::{WORDS, install, own};
pub(crate) use text::Exposition;
pub(crate) use totals::Totals;

/// Size of the memory for the metrics of one process, in bytes.
pub const CAPACITY: usize = WORDS * size_of::<u64>();

/// The gauge of the units of work that have begun and not ended.
pub(crate) const WORK_IN_FLIGHT: &str = "work_in_flight";

/// The name of a metric, and everything else that is known before it has a value.
#[derive(Debug)]
struct Described<'a> {
    kind: MetricKind,
    name: &'a str,
    help: &'a str,
    labels: &'a [(&'a str, &'a str)],
    bounds: &'a [f64],
    /// Its values in the memory of this process.
    cells: OnceLock<&'static [AtomicU64]>,
}

impl<'a> Described<'a> {
    const fn new(kind: MetricKind, name: &'a str, help: &'a str) -> Self {
        Self { kind, name, help, labels: &[], bounds: &[], cells: OnceLock::new() }
    }
}

impl Described<'static> {
    fn cells(&self) -> &'static [AtomicU64] {
        self.cells.get_or_init(|| region::cells_of(self))
    }

    fn first(&self) -> &'static AtomicU64 {
        &self.cells()[0]
    }
}

/// A number that only grows, such as that of requests.
///
/// # Examples
///
/// ```
/// use release_core::metrics::Counter;
///
/// static SENT: Counter = Counter::new("mails_sent", "Mails that were sent");
///
/// SENT.increment();
/// assert_eq!(SENT.value(), 1);
/// ```
#[derive(Debug)]
pub struct Counter(Described<'static>);

impl Counter {
    /// Creates a counter for a `static`. Counters of the same name and labels are one counter.
    ///
    /// The name consists of letters, digits and `_`; names that begin with `release_` belong to the library.
    /// In the text it ends with `_total`. A metric with another name counts nowhere, and the log says so.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Counter;
    ///
    /// static REQUESTS: Counter = Counter::new("http_requests", "Requests that were answered");
    /// REQUESTS.increment();
    /// ```
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Described::new(MetricKind::Counter, name, help))
    }

    /// Sets the labels, at most 8: pairs of a name and a value.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Counter;
    ///
    /// static FOUND: Counter = Counter::new("lookups", "Lookups").labels(&[("found", "yes")]);
    /// FOUND.increment();
    /// ```
    #[must_use]
    pub const fn labels(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.0.labels = labels;
        self
    }

    /// Adds 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Counter;
    ///
    /// static ERRORS: Counter = Counter::new("errors", "Requests that failed");
    /// ERRORS.increment();
    /// ```
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds a number.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Counter;
    ///
    /// static BYTES: Counter = Counter::new("sent_bytes", "Bytes that were sent");
    /// BYTES.add(1500);
    /// ```
    pub fn add(&self, count: u64) {
        self.0.first().fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the count of this process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Counter;
    ///
    /// static RETRIES: Counter = Counter::new("retries", "Requests that were sent again");
    /// assert_eq!(RETRIES.value(), 0);
    /// ```
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.first().load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks, such as that of open sessions. The metric is the sum over all running
/// processes of the group.
///
/// # Examples
///
/// ```
/// use release_core::metrics::Gauge;
///
/// static QUEUED: Gauge = Gauge::new("queued_mails", "Mails that wait");
///
/// QUEUED.add(2);
/// QUEUED.add(-1);
/// assert_eq!(QUEUED.value(), 1);
/// ```
#[derive(Debug)]
pub struct Gauge(Described<'static>);

impl Gauge {
    /// Creates a gauge for a `static`; see [`Counter::new`] about its name.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Gauge;
    ///
    /// static CONNECTED: Gauge = Gauge::new("connected", "Connections to the database");
    /// CONNECTED.set(4);
    /// ```
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Described::new(MetricKind::Gauge, name, help))
    }

    /// Sets the labels; see [`Counter::labels`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Gauge;
    ///
    /// static IDLE: Gauge = Gauge::new("pool_connections", "Connections").labels(&[("state", "idle")]);
    /// IDLE.set(4);
    /// ```
    #[must_use]
    pub const fn labels(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.0.labels = labels;
        self
    }

    /// Sets the value of this process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Gauge;
    ///
    /// static ENTRIES: Gauge = Gauge::new("cache_entries", "Entries of the cache");
    /// ENTRIES.set(100);
    /// ```
    pub fn set(&self, value: i64) {
        self.0.first().store(value.cast_unsigned(), Ordering::Relaxed);
    }

    /// Adds a number, which may be negative.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Gauge;
    ///
    /// static BUSY: Gauge = Gauge::new("busy", "Requests in progress");
    /// BUSY.add(1);
    /// BUSY.add(-1);
    /// ```
    pub fn add(&self, change: i64) {
        self.0.first().fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    /// Returns the value of this process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Gauge;
    ///
    /// static WAITING: Gauge = Gauge::new("waiting", "Clients that wait");
    /// assert_eq!(WAITING.value(), 0);
    /// ```
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.first().load(Ordering::Relaxed).cast_signed()
    }
}

/// Counts values by size, such as the times to an answer.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::metrics::Histogram;
///
/// static TIME: Histogram = Histogram::new("query_seconds", "Time of a query", &[0.01, 0.1, 1.0]);
///
/// TIME.observe_time(Duration::from_millis(20));
/// assert_eq!(TIME.count(), 1);
/// ```
#[derive(Debug)]
pub struct Histogram(Described<'static>);

impl Histogram {
    /// Creates a histogram for a `static`; see [`Counter::new`] about its name. `bounds` are the upper
    /// bounds of its buckets, at most 32 finite numbers in ascending order. The last bucket, without a
    /// bound, is added.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Histogram;
    ///
    /// static SIZE: Histogram = Histogram::new("body_bytes", "Sizes of bodies", &[1e3, 1e4, 1e5]);
    /// SIZE.observe(1500.0);
    /// ```
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        let mut about = Described::new(MetricKind::Histogram, name, help);
        about.bounds = bounds;
        Self(about)
    }

    /// Sets the labels; see [`Counter::labels`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Histogram;
    ///
    /// static READ: Histogram =
    ///     Histogram::new("disk_seconds", "Time of a request", &[0.01, 0.1]).labels(&[("does", "read")]);
    /// READ.observe(0.002);
    /// ```
    #[must_use]
    pub const fn labels(mut self, labels: &'static [(&'static str, &'static str)]) -> Self {
        self.0.labels = labels;
        self
    }

    /// Counts a value. A value that is no finite number is left out.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Histogram;
    ///
    /// static LENGTH: Histogram = Histogram::new("line_length", "Lengths of lines", &[80.0, 120.0]);
    /// LENGTH.observe(100.0);
    /// LENGTH.observe(f64::NAN);
    /// assert_eq!(LENGTH.count(), 1);
    /// ```
    pub fn observe(&self, value: f64) {
        observe(self.0.cells(), self.0.bounds, value, 1);
    }

    /// Counts a time, in seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Instant;
    /// use release_core::metrics::Histogram;
    ///
    /// static TIME: Histogram = Histogram::new("render_seconds", "Time to a page", &[0.01, 0.1]);
    /// let began = Instant::now();
    /// TIME.observe_time(began.elapsed());
    /// ```
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Returns the number of values of this process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::metrics::Histogram;
    ///
    /// static AGE: Histogram = Histogram::new("entry_age_seconds", "Ages of entries", &[60.0]);
    /// assert_eq!(AGE.count(), 0);
    /// ```
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.0.cells().split_last().map_or(&[][..], |(_, counts)| counts);
        counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Counts a value so many times in the cells of a histogram.
fn observe(cells: &[AtomicU64], bounds: &[f64], value: f64, times: u32) {
    if !value.is_finite() {
        return;
    }
    let bucket = bounds.partition_point(|bound| *bound < value);
    if let [counts @ .., sum] = cells
        && let Some(count) = counts.get(bucket)
    {
        count.fetch_add(u64::from(times), Ordering::Relaxed);
        add_real(sum, value * f64::from(times));
    }
}

/// Adds to a cell with the bits of a real number.
fn add_real(cell: &AtomicU64, change: f64) {
    let more = |bits| Some((f64::from_bits(bits) + change).to_bits());
    let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
}
