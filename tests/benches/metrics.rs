//! The cost of one update of a metric, beside a plain atomic addition and beside the macros of the crate
//! `metrics`.
//!
//! ```sh
//! cargo bench --bench metrics                  # the table
//! cargo bench --bench metrics -- --quick       # fewer rounds
//! ```
//!
//! The candidates take turns in many short rounds. A figure is the median of its rounds, and a ratio that of
//! the ratios within a round, so that a machine that changes its speed changes all of them.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics::{counter, histogram};
use release_core::metrics::{Counter, Histogram, Recorder};

/// Updates in a round.
const UPDATES: u32 = 20_000;

const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static PLAIN: AtomicU64 = AtomicU64::new(0);
static COUNTER: Counter = Counter::new("updates", "Updates");
static LABELLED: Counter = Counter::new("labelled_updates", "Updates").labels(&[("of", "a")]);
static HISTOGRAM: Histogram = Histogram::new("update_seconds", "Times", &BOUNDS);

/// A name, and one update.
type Candidate<'a> = (&'static str, &'a dyn Fn());

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--quick") { 5 } else { 301 };
    if metrics::set_global_recorder(Recorder::new()).is_err() {
        unreachable!("nobody else sets one");
    }
    let (kept, kept_histogram) = (counter!("kept_updates"), histogram!("kept_update_seconds"));
    let candidates: [Candidate<'_>; 9] = [
        ("AtomicU64, relaxed", &|| _ = black_box(PLAIN.fetch_add(1, Ordering::Relaxed))),
        ("Counter", &|| COUNTER.increment()),
        ("Counter with a label", &|| LABELLED.increment()),
        ("Histogram, 11 bounds", &|| HISTOGRAM.observe(black_box(0.03))),
        ("facade: counter!(\"a\")", &|| counter!("macro_updates").increment(1)),
        ("facade: counter!(\"a\", label)", &|| counter!("macro_labels", "of" => "a").increment(1)),
        ("facade: a kept counter", &|| kept.increment(1)),
        ("facade: histogram!(\"a\")", &|| histogram!("macro_seconds").record(black_box(0.03))),
        ("facade: a kept histogram", &|| kept_histogram.record(black_box(0.03))),
    ];
    let mut times = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds {
        for ((_, update), times) in candidates.iter().zip(&mut times) {
            times.push(round(update));
        }
    }
    println!("{:32} {:>9} {:>8}", "one update", "ns", "ratio");
    let plain = times[0].clone();
    for ((name, _), times) in candidates.iter().zip(times) {
        let ratios = times.iter().zip(&plain).map(|(time, plain)| time / plain).collect();
        println!("{name:32} {:9.1} {:8.1}", median(times), median(ratios));
    }
    let total = u64::from(UPDATES) * rounds;
    assert_eq!((COUNTER.value(), HISTOGRAM.count()), (total, total), "an update was lost");
}

/// The time of one update, in nanoseconds.
fn round(update: &dyn Fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..UPDATES {
        update();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(UPDATES)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
