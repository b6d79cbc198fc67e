//! The text format of OpenMetrics.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::read::{Metric, MetricKind};
use super::totals::Totals;

/// Metrics as text. The samples of a family stand together, as the format requires.
#[derive(Debug, Default)]
pub(crate) struct Exposition(BTreeMap<String, Family>);

/// The metrics of one name.
#[derive(Debug)]
struct Family {
    kind: MetricKind,
    help: String,
    samples: String,
}

impl Exposition {
    /// Adds a number of the pool itself.
    pub(crate) fn add(
        &mut self,
        (kind, name, help): (MetricKind, &str, &str),
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) {
        if let Some(family) = self.family(kind, name, help) {
            let end = if kind == MetricKind::Counter { "_total" } else { "" };
            family.sample(&format!("{name}{end}"), labels, value);
        }
    }

    /// Returns for how many metrics of each group there is one of another kind with their name: they are
    /// left out.
    pub(crate) fn left_out<'a>(&self, totals: &'a Totals) -> BTreeMap<Option<&'a str>, u64> {
        let (mut kinds, mut left_out) = (BTreeMap::new(), BTreeMap::new());
        for (group, metric) in totals.all() {
            let kind = shown(metric.kind);
            let known = self.0.get(&metric.name).map_or(kind, |family| family.kind);
            let first = *kinds.entry(&*metric.name).or_insert(known);
            if first != kind {
                *left_out.entry(group).or_default() += 1;
            }
        }
        left_out
    }

    /// Adds the metrics of the processes.
    pub(crate) fn add_totals(&mut self, totals: &Totals) {
        for (group, metric) in totals.all() {
            let own = metric.labels.iter().map(|(name, value)| (&**name, &**value));
            let labels: Vec<_> =
                group.map(|group| ("group", group)).into_iter().chain(own).collect();
            match metric.kind {
                MetricKind::Histogram => self.add_histogram(metric, &labels),
                MetricKind::Gauge => {
                    let about = (metric.kind, &*metric.name, &*metric.help);
                    self.add(about, &labels, metric.values[0].cast_signed());
                }
                MetricKind::RealGauge => {
                    let about = (MetricKind::Gauge, &*metric.name, &*metric.help);
                    self.add(about, &labels, number(f64::from_bits(metric.values[0])));
                }
                MetricKind::Counter => {
                    let about = (metric.kind, &*metric.name, &*metric.help);
                    self.add(about, &labels, metric.values[0]);
                }
            }
        }
    }

    fn add_histogram(&mut self, metric: &Metric, labels: &[(&str, &str)]) {
        let name = &metric.name;
        let Some(family) = self.family(metric.kind, name, &metric.help) else { return };
        let Some((sum, counts)) = metric.values.split_last() else { return };
        let bounds = metric.bounds.iter().copied().chain([f64::INFINITY]);
        let mut below = 0_u64;
        for (bound, count) in bounds.zip(counts) {
            below = below.saturating_add(*count);
            let bound = number(bound);
            let labels: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            family.sample(&format!("{name}_bucket"), &labels, below);
        }
        family.sample(&format!("{name}_sum"), labels, number(f64::from_bits(*sum)));
        family.sample(&format!("{name}_count"), labels, below);
    }

    /// Returns the family, unless it has another kind: the first metric decides.
    fn family(&mut self, kind: MetricKind, name: &str, help: &str) -> Option<&mut Family> {
        let new = || Family { kind, help: help.to_owned(), samples: String::new() };
        let family = self.0.entry(name.to_owned()).or_insert_with(new);
        (family.kind == kind).then_some(family)
    }
}

impl Family {
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels = labels.collect::<Vec<_>>().join(",");
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        // A string takes everything.
        let _ = writeln!(self.samples, "{name}{open}{labels}{close} {value}");
    }
}

/// Returns the kind that a reader sees.
fn shown(kind: MetricKind) -> MetricKind {
    if kind.is_gauge() { MetricKind::Gauge } else { kind }
}

/// Formats a number as other programs do: `+Inf`, and a decimal point.
fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { format!("{value:?}") }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl fmt::Display for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Family { kind, help, samples }) in &self.0 {
            let kind = match kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge | MetricKind::RealGauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            writeln!(f, "# TYPE {name} {kind}")?;
            if !help.is_empty() {
                writeln!(f, "# HELP {name} {}", escaped(help))?;
            }
            f.write_str(samples)?;
        }
        f.write_str("# EOF\n")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::region::Region;
    use super::super::{Counter, Described, Gauge, Histogram};
    use super::*;

    fn region(count: u64) -> Region {
        let region = Region::private();
        let set = |about: &Described<'_>, values: &[u64]| {
            let cells = region.cells(about).unwrap();
            cells
                .iter()
                .zip(values)
                .for_each(|(cell, value)| cell.store(*value, Ordering::Relaxed));
        };
        set(&Counter::new("served", "Served, \"all\"").labels(&[("by", "a\\b")]).0, &[count]);
        set(&Gauge::new("open", "").0, &[(-1_i64).cast_unsigned()]);
        let sum = (count as f64 / 2.0).to_bits();
        set(&Histogram::new("time", "Time", &[0.5, 2.0]).0, &[count, 0, 1, sum]);
        region
    }

    #[test]
    fn processes_are_summed_up_and_the_ended_stay() {
        let mut totals = Totals::default();
        totals.add_ended(Some("web".into()), region(100).words());
        let kept = serde_json::to_string(&totals.keep()).unwrap();
        let mut totals = Totals::from(serde_json::from_str::<Vec<_>>(&kept).unwrap());
        totals.add(Some("web".into()), region(5).words());
        totals.add(Some("web".into()), region(6).words());
        totals.add(None, region(1).words());
        let mut text = Exposition::default();
        text.add((MetricKind::Gauge, "release_generation", "Generation"), &[], 3);
        text.add_totals(&totals);
        let expected = "\
# TYPE open gauge
open -1
open{group=\"web\"} -2
# TYPE release_generation gauge
# HELP release_generation Generation
release_generation 3
# TYPE served counter
# HELP served Served, \\\"all\\\"
served_total{by=\"a\\\\b\"} 1
served_total{group=\"web\",by=\"a\\\\b\"} 111
# TYPE time histogram
# HELP time Time
time_bucket{le=\"0.5\"} 1
time_bucket{le=\"2.0\"} 1
time_bucket{le=\"+Inf\"} 2
time_sum 0.5
time_count 2
time_bucket{group=\"web\",le=\"0.5\"} 111
time_bucket{group=\"web\",le=\"2.0\"} 111
time_bucket{group=\"web\",le=\"+Inf\"} 114
time_sum{group=\"web\"} 55.5
time_count{group=\"web\"} 114
# EOF
";
        assert_eq!(text.to_string(), expected);
    }

    #[test]
    fn a_metric_that_another_kind_hides_is_counted() {
        let region = |kind: fn(&'static str, &'static str) -> Described<'static>| {
            let region = Region::private();
            region.cells(&kind("busy", "")).unwrap()[0].store(7, Ordering::Relaxed);
            region
        };
        let mut totals = Totals::default();
        totals.add(Some("a".into()), region(|name, help| Counter::new(name, help).0).words());
        totals.add(Some("b".into()), region(|name, help| Gauge::new(name, help).0).words());
        let mut text = Exposition::default();
        assert_eq!(text.left_out(&totals), BTreeMap::from([(Some("b"), 1)]));
        text.add((MetricKind::Gauge, "busy", ""), &[], 1);
        assert_eq!(text.left_out(&totals), BTreeMap::from([(Some("a"), 1)]));
        text.add_totals(&totals);
        assert_eq!(text.to_string(), "# TYPE busy gauge\nbusy 1\nbusy{group=\"b\"} 7\n# EOF\n");
    }

    #[test]
    fn a_group_cannot_fill_the_memory_of_the_master_or_touch_the_numbers_of_others() {
        let mut totals = Totals::default();
        totals.add_ended(Some("calm".into()), region(1).words());
        for process in 0..10 {
            let region = Region::private();
            for number in 0..500 {
                let name = format!("m{process}_{number}").leak();
                let cells = region.cells(&Counter::new(name, "").0).unwrap();
                cells[0].store(u64::MAX, Ordering::Relaxed);
            }
            totals.add_ended(Some("wild".into()), region.words());
        }
        assert_eq!(totals.all().filter(|(group, _)| *group == Some("wild")).count(), 1024);
        assert_eq!(totals.dropped().collect::<Vec<_>>(), [(Some("wild"), 5000 - 1024)]);
        totals.add_ended(Some("calm".into()), region(1).words());
        let calm =
            totals.all().find(|(group, metric)| *group == Some("calm") && metric.name == "served");
        assert_eq!(calm.unwrap().1.values, [2]);
    }
}
