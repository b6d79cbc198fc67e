//! Reads the region of a process, which may have written anything there.

use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of a metric, the same for its process and for the master.
const LONGEST_NAME: usize = 128;
const LONGEST_HELP: usize = 256;
const MOST_LABELS: usize = 8;
const LONGEST_LABEL: usize = 128;
const MOST_BOUNDS: usize = 32;

/// Beginning of the names of the pool's own metrics.
const RESERVED: &str = "release_";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MetricKind {
    Counter = 1,
    Gauge = 2,
    Histogram = 3,
    /// A gauge with the bits of a real number, of the facade.
    RealGauge = 4,
}

impl MetricKind {
    pub(crate) fn is_gauge(self) -> bool {
        matches!(self, Self::Gauge | Self::RealGauge)
    }
}

/// A metric with its values: one, or those of the buckets of a histogram and the bits of its sum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metric {
    pub(crate) kind: MetricKind,
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) bounds: Vec<f64>,
    pub(crate) values: Vec<u64>,
}

/// Returns whether a metric may have these texts and bounds.
pub(super) fn is_proper<T: AsRef<str>>(
    name: &str,
    help: &str,
    labels: &[(T, T)],
    bounds: &[f64],
) -> bool {
    let label = |(name, value): &(T, T)| {
        let (name, value) = (name.as_ref(), value.as_ref());
        is_name(name) && !["le", "group"].contains(&name) && is_text(value, LONGEST_LABEL)
    };
    let is_alone = |index: usize| {
        labels[..index].iter().all(|other| other.0.as_ref() != labels[index].0.as_ref())
    };
    is_name(name)
        && !name.starts_with(RESERVED)
        && !["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end))
        && is_text(help, LONGEST_HELP)
        && labels.len() <= MOST_LABELS
        && labels.iter().all(label)
        && (0..labels.len()).all(is_alone)
        && bounds.len() <= MOST_BOUNDS
        && bounds.iter().all(|bound| bound.is_finite())
        && bounds.is_sorted_by(|one, next| one < next)
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_NAME
        && text.bytes().all(is_letter)
        && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn is_text(text: &str, longest: usize) -> bool {
    text.len() <= longest && !text.chars().any(char::is_control)
}

/// Returns the metrics in a region. Leaves out entries that make no sense.
pub(crate) fn metrics(words: &[AtomicU64]) -> Vec<Metric> {
    let Some((used, _)) = words.split_first() else { return Vec::new() };
    let used = usize::try_from(used.load(Ordering::Acquire)).unwrap_or(usize::MAX);
    // Once, as the process may change it at any time. Unused pages are not touched.
    let read: Vec<_> = words.iter().take(used).map(|word| word.load(Ordering::Relaxed)).collect();
    let mut rest = read.get(1..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((metric, after)) = next(rest) {
        found.extend(metric);
        rest = after;
    }
    found
}

/// Returns the value of a gauge without labels, if there is one in the region.
pub(crate) fn gauge_in(words: &[AtomicU64], name: &str) -> Option<i64> {
    let is_it = |metric: &Metric| {
        metric.kind == MetricKind::Gauge && metric.name == name && metric.labels.is_empty()
    };
    let found = metrics(words).into_iter().find(is_it)?;
    found.values.first().map(|value| value.cast_signed())
}

/// Returns the first metric, unless it makes no sense, and the words after it.
fn next(words: &[u64]) -> Option<(Option<Metric>, &[u64])> {
    let (head, rest) = words.split_first()?;
    let [kind, bounds, lengths @ ..] = head.to_be_bytes();
    let kind = match kind {
        1 => MetricKind::Counter,
        2 => MetricKind::Gauge,
        3 => MetricKind::Histogram,
        4 => MetricKind::RealGauge,
        _ => return None,
    };
    let length = |at: usize| usize::from(u16::from_be_bytes([lengths[at], lengths[at + 1]]));
    let lengths = [length(0), length(2), length(4)];
    let texts = lengths.iter().sum::<usize>();
    let bounds = usize::from(bounds);
    let values = if kind == MetricKind::Histogram { bounds + 2 } else { 1 };
    let (texts, rest) = (texts, rest.split_at_checked(texts.div_ceil(size_of::<u64>()))?);
    let bytes: Vec<_> = rest.0.iter().flat_map(|word| word.to_le_bytes()).take(texts).collect();
    let (bounds, rest) = rest.1.split_at_checked(bounds)?;
    let (values, rest) = rest.split_at_checked(values)?;
    let bounds: Vec<_> = bounds.iter().copied().map(f64::from_bits).collect();
    Some((understood(kind, lengths, &bytes, (bounds, values)), rest))
}

fn understood(
    kind: MetricKind,
    [name, help, _]: [usize; 3],
    texts: &[u8],
    (bounds, values): (Vec<f64>, &[u64]),
) -> Option<Metric> {
    let (name, rest) = texts.split_at_checked(name)?;
    let (help, labels) = rest.split_at_checked(help)?;
    let text = |bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let (name, help) = (text(name)?, text(help)?);
    let mut parts: Vec<_> = labels.split(|byte| *byte == 0).map(text).collect::<Option<_>>()?;
    // After the last one.
    parts.pop().filter(String::is_empty)?;
    if !parts.len().is_multiple_of(2) {
        return None;
    }
    let labels: Vec<_> = parts.chunks_exact(2).map(|it| (it[0].clone(), it[1].clone())).collect();
    if !is_proper(&name, &help, &labels, &bounds) {
        return None;
    }
    let mut values = values.to_vec();
    if let (MetricKind::Histogram | MetricKind::RealGauge, Some(real)) = (kind, values.last_mut())
        && !f64::from_bits(*real).is_finite()
    {
        *real = 0;
    }
    Some(Metric { kind, name, help, labels, bounds, values })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::region::{Region, WORDS};
    use super::super::{Counter, Described, Gauge, Histogram};
    use super::*;

    fn set(region: &Region, about: &Described<'_>, value: u64) {
        let cells = region.cells(about).unwrap();
        cells.iter().for_each(|cell| cell.store(value, Ordering::Relaxed));
    }

    #[test]
    fn what_is_written_is_read() {
        let region = Region::private();
        set(&region, &Counter::new("a", "Of a").labels(&[("x", "1"), ("y", "\u{e9}")]).0, 7);
        set(&region, &Gauge::new("b", "").0, (-3_i64).cast_unsigned());
        set(&region, &Histogram::new("c", "Of c", &[0.5, 2.0]).0, 1);
        // The same, again.
        set(&region, &Counter::new("a", "Of a").labels(&[("x", "1"), ("y", "\u{e9}")]).0, 8);
        let read = metrics(region.words());
        let names: Vec<_> = read.iter().map(|it| (&*it.name, &*it.help, &*it.values)).collect();
        let minus = (-3_i64).cast_unsigned();
        assert_eq!(names, [("a", "Of a", &[8][..]), ("b", "", &[minus]), ("c", "Of c", &[1; 4])]);
        assert_eq!(read[0].labels[1], ("y".to_owned(), "\u{e9}".to_owned()));
        assert_eq!(read[2].bounds, [0.5, 2.0]);
    }

    #[test]
    fn one_name_has_one_kind_and_improper_ones_are_refused() {
        let region = Region::private();
        set(&region, &Counter::new("a", "").0, 1);
        assert!(region.cells(&Gauge::new("a", "").0).unwrap_err().contains("another kind"));
        for name in ["", "1a", "a-b", "a b", "release_a", "a_total", "\u{e9}"] {
            assert!(region.cells(&Counter::new(name, "").0).is_err(), "{name}");
        }
        let labels: [&[(&str, &str)]; 4] =
            [&[("le", "1")], &[("group", "1")], &[("a", "\n")], &[("a", "1"), ("a", "2")]];
        for labels in labels {
            let refused = region.cells(&Counter::new("b", "").labels(labels).0).is_err();
            assert!(refused, "{labels:?}");
        }
        let bounds: [&[f64]; 3] = [&[1.0, 1.0], &[2.0, 1.0], &[f64::NAN]];
        for bounds in bounds {
            assert!(region.cells(&Histogram::new("c", "", bounds).0).is_err(), "{bounds:?}");
        }
    }

    #[test]
    fn a_full_region_stays_as_it_is() {
        let region = Region::private();
        let name = |number: usize| -> &'static str { format!("m{number}").leak() };
        let fitted = (0..WORDS)
            .take_while(|number| region.cells(&Counter::new(name(*number), "").0).is_ok());
        let fitted = fitted.count();
        assert!(fitted > 1000 && fitted < WORDS, "{fitted}");
        assert_eq!(metrics(region.words()).len(), fitted);
    }

    proptest! {
        #[test]
        fn nothing_that_a_process_writes_makes_the_reader_fail(
            words in prop::collection::vec(prop_oneof![
                any::<u64>(), 0..40_u64, (1..5_u64, 0..40_u64, 0..20_u64).prop_map(
                    |(kind, bounds, length)| kind << 56 | bounds << 48 | length << 32 | length)
            ], 0..200),
        ) {
            let words: Vec<_> = words.into_iter().map(AtomicU64::new).collect();
            for metric in metrics(&words) {
                prop_assert!(is_name(&metric.name) && !metric.name.starts_with(RESERVED));
                prop_assert!(metric.labels.len() <= MOST_LABELS);
            }
        }

        #[test]
        fn a_region_spoilt_in_one_place_is_read_or_left_out(place in 0..60_usize, word: u64) {
            let region = Region::private();
            set(&region, &Counter::new("a", "Of a").labels(&[("x", "1")]).0, 7);
            set(&region, &Histogram::new("c", "Of c", &[0.5, 2.0]).0, 1);
            region.words()[place].store(word, Ordering::Relaxed);
            for metric in metrics(region.words()) {
                prop_assert!(
                    is_proper(&metric.name, &metric.help, &metric.labels, &metric.bounds)
                );
            }
        }
    }
}
